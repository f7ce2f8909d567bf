"""The app of the stories.

PUT /shutdown is for the operator: it is written down and answered at once. Everything else is for
the test, which comes through the API server's proxy: it reads what was written down, and says when
the app shall acknowledge. So nothing depends on how fast anybody is.
"""
import http.server
import json
import subprocess
import time

calls = []
answer = {"code": 200}
# Stands for 200 and a body that has no end.
ENDLESS = 0


class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/answer":
            answer["code"] = int(body)
            return self.reply(200, {})
        if self.path != "/shutdown":
            return self.reply(404, {})
        call = {
            "at": time.time(),
            "code": answer["code"],
            "body": body.decode(),
            "chunked": "Transfer-Encoding" in self.headers,
            "hook": self.headers.get("Krake-Hook"),
            "request": self.headers.get("Krake-Request-Id"),
            "deadline": self.headers.get("Krake-Deadline"),
        }
        calls.append(call)
        if answer["code"] == ENDLESS:
            return self.pour(call)
        self.reply(answer["code"], {})

    def do_GET(self):
        self.reply(200, calls)

    def do_POST(self):
        script = self.rfile.read(int(self.headers["Content-Length"])).decode()
        ran = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
        self.reply(200, {"status": ran.returncode, "out": ran.stdout, "err": ran.stderr})

    def reply(self, code, value):
        body = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def pour(self, call):
        """An answer without end, for as long as anybody takes it."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        call["taken"] = 0
        try:
            while True:
                self.wfile.write(b"x" * 65536)
                call["taken"] += 65536
        except OSError:
            call["hung_up"] = True

    def log_message(self, *_):
        pass


http.server.ThreadingHTTPServer(("", 8080), App).serve_forever()
