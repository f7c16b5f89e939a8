"""kadalu-quotad: on each brick host it makes the kernel enforce the size of every PV whose record is on a local brick.

From the inside outwards:

    plan       PURE: which project id, which limits, what to do, how to call what was seen
    xfs        the only ioctl and quotactl
    bricks     the local bricks, from glusterd's own files
    scan       a brick: its records and PV directories, opened without following anything
    tree       tags a PV's whole tree
    enforce    one record from what it asks for to what the kernel confirms
    watch      inotify
    worker     the loop around them, one for each file system, so that one that hangs delays no other
    daemon     tells the workers which bricks there are and when to look;  systemd  tells systemd about it
    told       what the running daemon said of itself, for the commands that look
    config     /etc/kadalu-quotad.toml
    metrics    for Prometheus, to a file;  metrics_http  or over HTTP
    once       one turn of it in the foreground, or as a dry run;  tally  counts what is changed, or keeps it from being
    status     the same looked at without changing anything;  explain  for one PV, step by step
    aside      a child process in which they look, to be left behind where a file system hangs
    heal       which files on a brick wait for gluster's self-heal
    show       what was looked at, as people and monitoring read it;  progress  a bar meanwhile
    main       the command line
"""
