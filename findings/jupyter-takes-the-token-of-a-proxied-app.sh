#!/usr/bin/env bash
# Jupyter Server behind which jupyter-server-proxy shows another program: Jupyter takes `?token=` in the address of that
# program for its own token. A request that shows Jupyter's token in its header is then not signed in any more, and is
# sent to Jupyter's login page; the same request without `?token=` reaches the program. So a program whose printed
# address has a token of its own cannot be opened through the proxy before one has signed in to Jupyter: with Jupyter's
# cookie both work.
#
# Seen with jupyter-server 2.17.0 and jupyter-server-proxy 4.4.0: 200, 302 to /login, and with the cookie 200.
set -euo pipefail
folder=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$folder"' EXIT

python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check 'jupyter-server==2.17.0' 'jupyter-server-proxy==4.4.0'

cat > "$folder/ask.py" <<'PYTHON'
import http.server
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path

here = Path(sys.argv[1])
TOKEN = "a-token-of-jupyter"


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"the program")

    def log_message(self, *arguments):
        pass


class Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments):
        return None


program = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
threading.Thread(target=program.serve_forever, daemon=True).start()
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
jupyter = subprocess.Popen(
    [here / "venv/bin/jupyter-server", "--allow-root", "--no-browser", "--ip=127.0.0.1", f"--port={port}",
     f"--IdentityProvider.token={TOKEN}", f"--ServerApp.root_dir={here}"],
    cwd=here, env={"HOME": str(here), "PATH": f"{here}/venv/bin:/usr/bin:/bin"},
    stdout=(here / "log").open("w"), stderr=subprocess.STDOUT,
)  # fmt: skip
address = f"http://127.0.0.1:{port}/proxy/{program.server_port}/page"


def ask(url, jar=None, **headers):
    opener = urllib.request.build_opener(Stay, urllib.request.HTTPCookieProcessor(jar))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as reply:
            return reply.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.headers.get("Location", "").partition("?")[0]


end = time.monotonic() + 60
while time.monotonic() < end:
    try:
        ask(f"http://127.0.0.1:{port}/api")
        break
    except OSError:
        time.sleep(0.2)
signed = {"Authorization": f"token {TOKEN}"}
jar = CookieJar()
ask(f"http://127.0.0.1:{port}/tree?token={TOKEN}", jar)
found = [ask(address, **signed), ask(f"{address}?token=of-the-program", **signed),
         ask(f"{address}?token=of-the-program", jar)]
print(f"with Jupyter's token in the header: {found[0]}; the same with ?token= of the program: {found[1]}; "
      f"that with Jupyter's cookie: {found[2]}")
jupyter.terminate()
jupyter.wait()
sys.exit(found != [(200, ""), (302, "/login"), (200, "")])
PYTHON

python3 "$folder/ask.py" "$folder" || { echo "this has changed"; exit 1; }
echo "as described"
