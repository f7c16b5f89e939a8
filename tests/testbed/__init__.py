"""A real Gluster cluster and a real Kubernetes on one Debian machine.

Run it as ``python3 -m tests.testbed``.  It needs the standard library only, so it works before anything is
installed with pip.  `paths` says where it keeps things, `host` what it wants of the machine, `sandbox` is the
process tree that everything runs in, `rootfs` and `brickhosts` are the Gluster half.
"""
