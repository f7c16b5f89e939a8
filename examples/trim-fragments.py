"""On a brick host of a disperse volume: cuts off what refused writes left behind the ends of files, which can then be
read and healed again.

    python3 trim-fragments.py /bricks/volume_name            # says what there is to do
    python3 trim-fragments.py --trim /bricks/volume_name     # does it

First stop all that writes to the PV. Then run it for every brick of the volume, and let gluster heal. Only files that
wait for self-heal are looked at, and nothing is cut off but what lies behind the size that the fragment itself notes.
docs/troubleshooting.md says when this is needed.
"""

import os
import re
import struct
import sys

GFID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def wanted(path: str) -> int:
    """How long the fragment has to be (trusted.ec.config: xlators/cluster/ec/src/ec-common.c, v10.3)."""
    _version, _algorithm, _word, bricks, redundancy, high, low = struct.unpack(
        ">BBBBBBH", os.getxattr(path, "trusted.ec.config")
    )
    chunk = high << 16 | low
    (size,) = struct.unpack(">Q", os.getxattr(path, "trusted.ec.size"))
    return -(-size // (chunk * (bricks - redundancy))) * chunk


def main() -> int:
    trim = "--trim" in sys.argv
    bricks = [word for word in sys.argv[1:] if word.startswith("/")]
    if not bricks or len(bricks) + trim != len(sys.argv) - 1:
        print(__doc__)
        return 2
    for brick in bricks:
        waiting = {name for index in ("xattrop", "dirty") for name in os.listdir(f"{brick}/.glusterfs/indices/{index}")}
        for gfid in sorted(filter(GFID.fullmatch, waiting)):
            path = f"{brick}/.glusterfs/{gfid[:2]}/{gfid[2:4]}/{gfid}"
            if os.path.islink(path) or not os.path.isfile(path):
                continue
            length, end = os.stat(path).st_size, wanted(path)
            if length > end:
                print(f"{path}: {length} bytes, should be {end}{': trimmed' if trim else ''}")
                if trim:
                    os.truncate(path, end)
    return 0


if __name__ == "__main__":
    sys.exit(main())
