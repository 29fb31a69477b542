#!/bin/sh
# Starts a Redis in its folder, and first takes half a transaction off the end of its file.
#
# A power cut can leave one. Redis then starts without it, but cuts the file only behind its last
# whole command: the half stays, and at the next start it joins what was written since. So a unit
# is counted twice in the ledger, and once in the level. redis-check-aof takes off all of it.
set -eu
manifest=appendonlydir/appendonly.aof.manifest
most=1048576 # bytes: what is wrong further from the end is no cut, and Redis refuses it itself

if [ -s "$manifest" ] && ! said=$(redis-check-aof "$manifest" 2>&1); then
    off=$(printf '%s' "$said" | sed -n 's/.*diff=\([0-9]*\).*/\1/p' | tail -n 1)
    if [ -n "$off" ] && [ "$off" -le "$most" ]; then
        echo "taking $off bytes of an unfinished write off the file"
        echo y | redis-check-aof --fix "$manifest"
    fi
fi
exec redis-server "$@"
