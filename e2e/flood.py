"""A pod without any right that opens connections to the operator, and ends by itself.

ADDRESSES: the operator's pods. SECONDS: how long at most; it ends before when there is a file STOP. SILENT: connections that say nothing, kept open and
opened again, nine to an admin port for one to a callback. HALF: TLS handshakes a second that are begun
and left. Prints what came of it so far as JSON, once a second, and at the end.
"""

import collections
import json
import os
import resource
import select
import socket
import ssl
import struct
import time

ADDRESSES = os.environ["ADDRESSES"].split()
SECONDS = min(float(os.environ["SECONDS"]), 900)
STOP = os.environ["STOP"]
SILENT = min(int(os.environ["SILENT"]), 10000)
HALF = min(int(os.environ["HALF"]), 5000)
# So often a second one that was closed is opened again.
AGAIN = 500

hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def client_hello():
    context = ssl.create_default_context()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="krake-hooks.krake-system.svc")
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def connect(address, port):
    stream = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    stream.setblocking(False)
    # Closed by a reset: a node's table of connections is not what is attacked here.
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.connect_ex((address, port))
    return stream


counted = collections.Counter()
hello = client_hello()
targets = [(address, port) for port in (8443,) + 9 * (8080,) for address in ADDRESSES]
poll = select.epoll()
silent, half, fresh = {}, collections.deque(), collections.deque()
begin = time.monotonic()
told = 0


def tell(passed):
    print(json.dumps({**counted, "silent": len(silent), "seconds": round(passed, 1)}), flush=True)


def open_silent():
    stream = connect(*targets[counted["opened"] % len(targets)])
    counted["opened"] += 1
    silent[stream.fileno()] = stream
    poll.register(stream.fileno(), select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR)


while (passed := time.monotonic() - begin) < SECONDS:
    if passed >= told + 1:
        told = passed
        if os.path.exists(STOP):
            break
        tell(passed)
    try:
        # All within five seconds, and then as many as are closed, at the pace of AGAIN.
        due = min(SILENT, int(SILENT * passed / 5)) + int(AGAIN * max(0, passed - 5))
        due = min(due, counted["opened"] + 100)
        while len(silent) < SILENT and counted["opened"] < due:
            open_silent()
        while fresh and time.monotonic() - fresh[0][0] > 0.02:
            _, stream = fresh.popleft()
            try:
                counted["greeted"] += int(stream.send(hello) > 0)
            except OSError:
                counted["not greeted"] += 1
            half.append(stream)
        while len(half) > 2000:
            half.popleft().close()
        due = min(int(HALF * passed), counted["half"] + 100)
        while counted["half"] < due:
            stream = connect(ADDRESSES[counted["half"] % len(ADDRESSES)], 8443)
            counted["half"] += 1
            fresh.append((time.monotonic(), stream))
        for number, _ in poll.poll(0.001, 1000):
            poll.unregister(number)
            silent.pop(number).close()
            counted["closed"] += 1
        counted["most silent"] = max(counted["most silent"], len(silent))
    except OSError as error:
        counted[f"errno {error.errno}"] += 1
        time.sleep(0.05)
counted["ended"] = 1
tell(time.monotonic() - begin)
