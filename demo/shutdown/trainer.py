"""Trains for ever. Asked to shut down, it saves what it has learned, then acknowledges."""

import http.server
import os
import signal
import sys
import threading
import time

import requests

steps = 0
stop = threading.Event()
asked = set()


def train():
    global steps
    while not stop.is_set():
        steps += 1
        time.sleep(0.1)


def save_and_acknowledge():
    stop.set()
    with open("/state/checkpoint", "w") as checkpoint:
        for part in range(1, 6):
            time.sleep(1)
            checkpoint.write(f"part {part} of {steps} steps\n")
            checkpoint.flush()
            os.fsync(checkpoint.fileno())
            print(f"saved part {part} of 5", flush=True)

    # From here on the lines of Krake's manual.
    ca_bundle = "/etc/krake_cert/ca-bundle.pem"
    cert_path = "/etc/krake_cert/cert.pem"
    key_path = "/etc/krake_cert/key.pem"
    cert_and_key = (cert_path, key_path)
    endpoint = os.getenv("KRAKE_SHUTDOWN_URL")
    token = os.getenv("KRAKE_TOKEN")

    answer = requests.put(endpoint, verify=ca_bundle, json={"token": token}, cert=cert_and_key)
    print(f"PUT {endpoint} -> {answer.status_code} {answer.text}", flush=True)


class ShutdownService(http.server.BaseHTTPRequestHandler):
    def do_PUT(self):
        # Answered at once: the call only asks, and saving takes longer than a call should.
        self.send_response(202 if self.path == "/shutdown" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()
        request = self.headers.get("Krake-Request-Id", "")
        # The same request may be sent twice; its id tells.
        if self.path == "/shutdown" and request not in asked:
            asked.add(request)
            print(f"asked to shut down: request {request}, after {steps} steps", flush=True)
            threading.Thread(target=save_and_acknowledge).start()

    def log_message(self, *arguments):
        pass


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
# The very first pod starts before its template was injected; the injection's rollout replaces it.
print("training, with a token" if os.getenv("KRAKE_TOKEN") else "training, without a token yet", flush=True)
threading.Thread(target=train, daemon=True).start()
http.server.ThreadingHTTPServer(("", 8000), ShutdownService).serve_forever()
