"""Callers that begin many large messages and never finish them: the daemon grows by no more than
limits.max_rpc_memory_bytes, 2 MiB for each connection (128 windows of 16 KiB) and 48 MiB for everything else. Meanwhile
calls of others are answered, each after a second at most on an idle machine: when a message is given up for being slow.

Usage: flood_test.py BUILD_DIR [--connections 4] [--limit MIB] [--message MIB] [--seconds 3] [--out FILE.json]
--message: what each message says it has; more than limits.max_message_bytes is refused by gRPC only when it is there.
Speaks HTTP/2 by itself, as a gRPC library would not: no library leaves messages unfinished.
"""

import argparse
import json
import pathlib
import re
import socket
import struct
import sys
import threading
import time

import grpc

import rig
from finetuned.v1 import jobs_pb2

DATA, HEADERS, RST, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
STREAMS = 100
WINDOWS = 2  # MiB of one connection
OTHER = 48


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers():
    """HPACK, every field literal."""
    fields = {":method": "POST", ":scheme": "http", ":path": "/finetuned.v1.Jobs/CreateJob", ":authority": "localhost",
              "content-type": "application/grpc", "te": "trailers"}
    return b"".join(b"\0" + bytes([len(k)]) + k.encode() + bytes([len(v)]) + v.encode() for k, v in fields.items())


class Flood(threading.Thread):
    """One connection: as much of each stream's message as the windows allow, but its end."""

    def __init__(self, path, message):
        super().__init__(daemon=True)
        self.message = message
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.sent, self.closed = 0, False
        self.window, self.initial = 65535, 65535
        self.windows = {}
        self.left = {1 + 2 * i: message for i in range(STREAMS)}
        self.ended = set()  # streams that the daemon gave up
        self.lock = threading.Lock()

    def run(self):
        try:
            self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
            threading.Thread(target=self._read, daemon=True).start()
            for stream in self.left:
                self.windows[stream] = self.initial
                self._send(frame(HEADERS, 4, stream, headers()))
                self._data(stream, b"\0" + struct.pack(">I", self.message))
            chunk = b"\x42" * 16384
            while not self.closed:
                moved = False
                for stream, left in list(self.left.items()):
                    size = min(len(chunk), left - 4096, self.window, self.windows[stream])
                    if size > 0:
                        self._data(stream, chunk[:size])
                        self.left[stream] = left - size
                        moved = True
                    if stream in self.ended:
                        self.left.pop(stream, None)
                if not moved:
                    time.sleep(0.01)
        except OSError:
            self.closed = True

    def _send(self, data):
        with self.lock:
            self.socket.sendall(data)

    def _data(self, stream, data):
        self._send(frame(DATA, 0, stream, data))
        self.window -= len(data)
        self.windows[stream] -= len(data)
        self.sent += len(data)

    def _read(self):
        try:
            self._read_frames(self.socket.makefile("rb"))
        except (OSError, ValueError):  # closed, by the daemon or at the end
            pass
        self.closed = True

    def _read_frames(self, incoming):
        while len(head := incoming.read(9)) == 9:
            size, kind, flags, stream = int.from_bytes(head[:3], "big"), head[3], head[4], struct.unpack(">I", head[5:])[0]
            payload = incoming.read(size)
            if kind == WINDOW_UPDATE:
                more = struct.unpack(">I", payload)[0]
                if stream == 0:
                    self.window += more
                else:
                    self.windows[stream] += more
            elif kind == SETTINGS and not flags & 1:
                for key, value in struct.iter_unpack(">HI", payload):
                    if key == 4:  # INITIAL_WINDOW_SIZE, also of streams that are open
                        for open_stream in self.windows:
                            self.windows[open_stream] += value - self.initial
                        self.initial = value
                self._send(frame(SETTINGS, 1, 0))
            elif kind == PING and not flags & 1:
                self._send(frame(PING, 1, 0, payload))
            elif kind == RST:
                self.ended.add(stream)
            elif kind == GOAWAY:
                self.closed = True


def resident_mib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text()).group(1)) / 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build_dir")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--limit", type=int, default=64, help="limits.max_rpc_memory_bytes in MiB")
    parser.add_argument("--message", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--out")
    args = parser.parse_args()
    limits = f"limits:\n  max_rpc_memory_bytes: {args.limit}MiB\n" if args.limit else ""
    daemon = rig.Daemon(args.build_dir, config_extra=limits).start()
    client = rig.Client(daemon)
    client.also_retried = {grpc.StatusCode.RESOURCE_EXHAUSTED}
    client.call("Jobs", "ListJobs", jobs_pb2.ListJobsRequest())
    before = peak = resident_mib(daemon.process.pid)
    floods = [Flood(daemon.socket, (args.message << 20) - 4096) for _ in range(args.connections)]
    for flood in floods:
        flood.start()
    slowest, calls, end = 0, 0, time.time() + args.seconds
    while time.time() < end:
        start = time.time()
        client.call("Jobs", "ListJobs", jobs_pb2.ListJobsRequest())
        slowest = max(slowest, time.time() - start)
        calls += 1
        peak = max(peak, resident_mib(daemon.process.pid))
        time.sleep(0.02)
    sent = sum(flood.sent for flood in floods) / 2**20
    result = {"sent_mib": round(sent), "limit_mib": args.limit, "before_mib": round(before), "peak_mib": round(peak),
              "calls": calls, "slowest_call_ms": round(1000 * slowest), "streams_ended": sum(len(f.ended) for f in floods),
              "connections_closed": sum(f.closed for f in floods)}
    print(json.dumps(result))
    assert daemon.starts == 1, "the daemon did not live through it"
    bound = args.limit + WINDOWS * args.connections + OTHER
    assert not args.limit or peak - before < bound, f"{peak - before:.0f} MiB for unfinished messages, not {bound}"
    assert slowest < 60, f"a call of somebody else took {slowest:.0f} s"
    for flood in floods:
        flood.socket.close()
    client.call("Jobs", "ListJobs", jobs_pb2.ListJobsRequest())
    rig.drain(daemon)
    if args.out:
        pathlib.Path(args.out).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
