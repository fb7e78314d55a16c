"""A page that says where it runs, and counts its visits."""

import http.server
import itertools
import os
import signal
import socket
import sys

VISITS = itertools.count(1)


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        text = "ok" if self.path == "/health" else f"visit {next(VISITS)} to {socket.gethostname()}, uid {os.getuid()}"
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(f"{text}\n".encode())


signal.signal(
    signal.SIGTERM, lambda *_: sys.exit(0)
)  # the first process of a container has no default: it would not end
http.server.ThreadingHTTPServer(("", 8000), Page).serve_forever()
