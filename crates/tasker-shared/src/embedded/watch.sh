# Becomes the server, with a watcher beside it. Arguments: our folder, the socket's folder, how long to linger in
# tenths of a second, the server and its arguments. Standard input: the read end of the FIFO of those who use the server.
# The watcher is forked twice, so that the server, which takes our place, does not take it for a child of its own.
folder=$1 socket_dir=$2 linger=$3
shift 3
exec 3<&0 </dev/null
(
    {
        trap '' HUP INT TERM
        left=$linger
        while :; do
            while read -r greeting <&3; do
                left=$linger
                : >"$folder/run/$greeting"
            done
            [ "$left" -gt 0 ] || break
            left=$((left - 1))
            sleep 0.1
        done
        # Only our own server: after a crash another one may hold the folder, or a stranger the process id.
        is_ours() {
            [ "$(head -n 1 "$folder/data/postmaster.pid" 2>/dev/null)" = $$ ] &&
                { [ ! -d /proc/self ] || grep -q postgres "/proc/$$/cmdline" 2>/dev/null; }
        }
        if is_ours; then
            kill -INT $$
            while is_ours; do sleep 0.1; done
        fi
        rm -rf "$socket_dir"
    } &
)
exec "$@" 3<&-
