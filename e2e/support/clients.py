"""Clients that acknowledge without pause, as apps do: some keep their connections and some do not,
over HTTP/1.1 and HTTP/2. Every answer but 200 is written down, and so is every connection that fails.

One for each pod's uid that it is given. They end when /tmp/clients.stop is there, and leave /tmp/clients.json.
"""
import json
import os
import subprocess
import sys
import threading
import time

import requests

DIRECTORY = "/etc/krake_cert"
ENDPOINT, TOKEN = os.environ["KRAKE_COMPLETE_ENDPOINT"], os.environ["KRAKE_TOKEN"]
KINDS = ["kept 1.1", "new 1.1", "kept 1.1 curl", "kept 2 curl"]
BATCH = 20
result = {"acknowledged": {}, "failed": [], "last": {}}
lock = threading.Lock()


def pod(number):
    return sys.argv[1 + number]


def note(number, kind, message, code, complaint=""):
    with lock:
        if code == 200:
            result["acknowledged"][kind] = result["acknowledged"].get(kind, 0) + 1
            result["last"][pod(number)] = message
        else:
            result["failed"].append([kind, code, complaint, time.time()])


def stopped():
    return os.path.exists("/tmp/clients.stop")


def with_requests(number, kind):
    session, count = requests.Session(), 0
    while not stopped():
        count += 1
        message = "%d" % count
        try:
            send = requests if kind == "new 1.1" else session
            answer = send.put(
                "%s/%s" % (ENDPOINT, pod(number)),
                json={"token": TOKEN, "message": message},
                verify=DIRECTORY + "/ca-bundle.pem",
                cert=(DIRECTORY + "/cert.pem", DIRECTORY + "/key.pem"),
                timeout=30,
            )
            note(number, kind, message, answer.status_code, answer.text)
        except requests.RequestException as error:
            note(number, kind, message, 0, repr(error))


def with_curl(number, kind):
    """One curl sends some, one after the other, over the connection it has."""
    count = 0
    while not stopped():
        messages, lines = [], []
        for _ in range(BATCH):
            count += 1
            messages.append("%d" % count)
            body = json.dumps({"token": TOKEN, "message": messages[-1]}).replace('"', '\\"')
            lines.append("\n".join([
                'url = "%s/%s"' % (ENDPOINT, pod(number)),
                'request = "PUT"',
                'data = "%s"' % body,
                'output = "/dev/null"',
                'write-out = "%{http_code} %{errormsg}\\n"',
                'cacert = "%s/ca-bundle.pem"' % DIRECTORY,
                'cert = "%s/cert.pem"' % DIRECTORY,
                'key = "%s/key.pem"' % DIRECTORY,
                'max-time = 30',
                'http2' if "2" in kind else 'http1.1',
            ]))
        ran = subprocess.run(["curl", "-sS", "--config", "-"], text=True,
                             input="\nnext\n".join(lines), capture_output=True)
        answers = ran.stdout.splitlines()
        for message, answer in zip(messages, answers):
            code, _, complaint = answer.partition(" ")
            note(number, kind, message, int(code), complaint)
        if len(answers) != BATCH:
            note(number, kind, "", 0, ran.stderr)


threads = []
for number in range(len(sys.argv) - 1):
    kind = KINDS[number % len(KINDS)]
    work = with_curl if "curl" in kind else with_requests
    threads.append(threading.Thread(target=work, args=(number, kind)))
[thread.start() for thread in threads]
[thread.join() for thread in threads]
with open("/tmp/clients.part", "w") as file:
    json.dump(result, file)
os.rename("/tmp/clients.part", "/tmp/clients.json")
