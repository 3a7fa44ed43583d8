# Runs a worker, the arguments, until it ends or our standard input does: whoever holds its other end may be killed.
exec 3<&0 </dev/null
"$@" 3<&- &
worker=$!
{
    cat <&3 >/dev/null
    kill -TERM "$worker"
} >/dev/null 2>&1 &
exec 3<&-
wait "$worker"
