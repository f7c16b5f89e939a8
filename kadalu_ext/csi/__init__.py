"""The CSI driver: the controller makes and deletes PVs through libgfapi, the node plugin bind mounts them.

From the inside outwards, the controller:

    params, capacity, enforcement   PURE: requests to typed ones, sizes and what may be promised, bricks' answers
    ports                           what is needed of a volume and its bricks, as protocols
    promises                        what a storage has promised, under any concurrency
    volumes                         the use cases: make a PV, wait until it is enforced, delete it
    trash                           empties what was deleted
    copies, filling, leases         clones and snapshots; when they are filled; by which controller
    removal                         where deleted PVs go
    housekeeping                    what is looked at every minute
    figures, metrics                what is counted, and how Prometheus gets it
    connection                      a storage's volume: facts, libgfapi in a process of its own, and its bricks
    session                         what a controller has of a storage's volume, and what works there by itself
    workers                         of one storage; bounded waits for them; one call in flight a PV
    clients                         what can be asked of a storage, by its name
    pvhealth                        PURE: what is wrong with a PV, from its bricks' answers
    listing                         all volumes of all storages, by pages
    identity, controller            thin gRPC servicers
    main                            the command line

and the node plugin:

    mounts                          bind mounts, by mountinfo
    mounterclient                   the mounter's calls
    nodevolumes                     the use cases: stage, publish, and back
    registration, node              kubelet's plugin registration; the servicer
"""
