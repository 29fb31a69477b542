#!/bin/sh
# Starts a Redis in its folder, and first takes half a transaction off the end of its file.
#
# A power cut can leave one. Redis then starts without it, but cuts the file only behind its last
# whole command: the half stays, and at the next start it joins what was written since. So a unit
# is counted twice in the ledger, and once in the level. redis-check-aof takes off all of it.
#
# It would take off damage as well, and all that was written behind it. So it is asked only where
# the file ends too soon; a damaged one is left as it is, and Redis refuses to start on it.
set -eu
manifest=appendonlydir/appendonly.aof.manifest
most=1048576 # bytes that one cut may take

ends_too_soon() {
    case $1 in
    *'Reached EOF before reading EXEC'* | *'Expected to read '*) return 0 ;;
    *'Expected \r\n, got'*) # so does one whose last line does
        at=$(printf '%s' "$1" | sed -n 's/^0x *\([0-9a-f]*\): .*/\1/p')
        file=$(printf '%s' "$1" | sed -n 's/.*filename=\([^,]*\),.*/\1/p' | tail -n 1)
        [ "$(tail -c +$((0x$at + 1)) "appendonlydir/$file" | wc -l)" -eq 0 ]
        ;;
    *) return 1 ;;
    esac
}

if [ -s "$manifest" ] && ! said=$(redis-check-aof "$manifest" 2>&1) && ends_too_soon "$said"; then
    off=$(printf '%s' "$said" | sed -n 's/.*diff=\([0-9]*\).*/\1/p' | tail -n 1)
    if [ "${off:-$most}" -lt "$most" ]; then
        echo "taking $off bytes of an unfinished write off the file"
        echo y | redis-check-aof --fix "$manifest"
    fi
fi
exec redis-server "$@"
