"""Real OpenTelemetry SDKs send traces to node A that node B owns; a backend must get each of them whole, from B.

Started by run.sh. Two nodes with mutual TLS on loopback, an OTLP/HTTP backend in this process, four senders: the Python
SDK and the Rust `opentelemetry-otlp` exporter, each over gRPC and over HTTP. Then the Python SDK sends traces that
begin at one node and end at the other, every span twice, some of them failed; exactly the failed ones must come out,
whole and once. Prints one line for each of these and `N passed, N failed`.
"""

import collections
import http.server
import json
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, StatusCode, set_span_in_context

SPANMESH = os.environ["SPANMESH"]
RUST_SENDER = os.environ["RUST_SENDER"]
TRACES_EACH = 20
SPANS_PER_TRACE = 3
SAMPLED_TRACES = 40
FAILED_EVERY = 4
DEADLINE_SECONDS = 60


class Backend(http.server.ThreadingHTTPServer):
    """Counts the spans of each trace, and which node sent them."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), BackendHandler)
        self.changed = threading.Condition()
        self.spans = collections.defaultdict(list)

    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class BackendHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        node = self.headers["x-node"]
        with self.server.changed:
            for resource_spans in request.resource_spans:
                keys = {attribute.key: attribute.value.string_value for attribute in resource_spans.resource.attributes}
                for scope_spans in resource_spans.scope_spans:
                    for span in scope_spans.spans:
                        seen = (span.span_id.hex(), node, keys.get("service.name"), keys.get("k8s.cluster.name"))
                        self.server.spans[span.trace_id.hex()].append(seen)
            self.server.changed.notify_all()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


class Node:
    """One spanmesh process of the mesh."""

    def __init__(self, directory, cluster, seeds, backend):
        self.cluster = cluster
        self.id = f"{cluster}/node-0"
        certs = directory / "certs" / "nodes" / cluster / "node-0"
        self.ready_file = directory / f"{cluster}.ready.json"
        config = directory / f"{cluster}.yaml"
        config.write_text(f"""
receivers:
  otlp: {{protocols: {{grpc: {{endpoint: "127.0.0.1:0"}}, http: {{endpoint: "127.0.0.1:0"}}}}}}
processors:
  memory_limiter: {{check_interval: 1s, limit_mib: 256, spike_limit_mib: 64}}
  resource: {{attributes: [{{key: k8s.cluster.name, value: {cluster}, action: upsert}}]}}
  span_dedup: {{}}
  tail_sampling:
    decision_wait: 2s
    policies:
      - {{name: errors, type: status_code, status_code: {{status_codes: [ERROR]}}}}
      - {{name: rust, type: string_attribute, string_attribute: {{key: service.name, values: [rust-grpc, rust-http]}}}}
exporters:
  otlp_http: {{endpoint: "{backend.url()}", compression: none, headers: {{x-node: {self.id}}}}}
connectors:
  mesh:
    cluster: {cluster}
    node: node-0
    listen: 127.0.0.1:0
    seeds: {json.dumps(seeds)}
    durability: memory
    tls: {{ca_file: {certs}/ca.pem, cert_file: {certs}/cert.pem, key_file: {certs}/key.pem}}
service:
  telemetry: {{metrics: {{address: "127.0.0.1:0"}}}}
  admin: {{endpoint: "127.0.0.1:0"}}
  pipelines:
    traces/local: {{receivers: [otlp], processors: [memory_limiter, resource], exporters: [mesh]}}
    traces/owned: {{receivers: [mesh], processors: [span_dedup, tail_sampling], exporters: [otlp_http]}}
""")
        command = [SPANMESH, "run", "--config", str(config), "--ready-file", str(self.ready_file)]
        self.log = open(directory / f"{cluster}.log", "wb")
        self.process = subprocess.Popen(command, stderr=self.log)
        self.addresses = wait_for(f"{self.id} to be ready", self.read_ready_file)

    def read_ready_file(self):
        if self.process.poll() is not None:
            raise SystemExit(f"{self.id} ended with {self.process.returncode}; its log: {self.log.name}")
        try:
            return json.loads(self.ready_file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return None

    def api(self, path):
        with urllib.request.urlopen(f"http://{self.addresses['admin']}/api/v1/{path}", timeout=5) as answer:
            return json.load(answer)

    def sees(self, members):
        active = [member for member in self.api("members")["members"] if member["state"] == "active"]
        return len(active) == members

    def owner_of(self, trace_id):
        return self.api(f"ring/owner/{trace_id}")["owner"]

    def has_decided_all(self):
        """Nothing waits for its verdict, or for the backend."""
        open_traces = self.api("status")["traces"][0]["open_traces"]
        return open_traces == 0 and self.api("ledger")["ledger"]["in_flight"] == 0

    def count(self, name):
        return self.api("ledger")["ledger"][name]

    def stop(self):
        self.process.terminate()
        self.process.wait(timeout=30)


def wait_for(what, probe):
    until = time.monotonic() + DEADLINE_SECONDS
    while time.monotonic() < until:
        value = probe()
        if value:
            return value
        time.sleep(0.05)
    raise SystemExit(f"gave up waiting for {what}")


def traces_owned_by(owner, asked, count):
    ids = []
    while len(ids) < count:
        candidate = secrets.token_hex(16)
        if asked.owner_of(candidate) == owner.id:
            ids.append(candidate)
    return ids


class GivenTraceIds(RandomIdGenerator):
    def __init__(self, trace_ids):
        self.trace_ids = [int(trace_id, 16) for trace_id in trace_ids]

    def generate_trace_id(self):
        return self.trace_ids.pop()


def send_with_python(exporter, service, trace_ids):
    provider = TracerProvider(
        resource=Resource.create({"service.name": service}), id_generator=GivenTraceIds(trace_ids)
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("interop")
    for _ in range(len(trace_ids)):
        root = tracer.start_span("root", attributes={"numbers": [1, 2, 3], "text": "Grüße", "ratio": 0.5})
        inside = set_span_in_context(root)
        for name in ("first", "second"):
            child = tracer.start_span(name, context=inside)
            child.add_event("an event", {"key": "value"})
            child.set_status(StatusCode.ERROR, "failed")
            child.end()
        root.end()
    provider.shutdown()


class Twice(SpanExporter):
    """Exports everything twice, as a sender does whose answer was lost."""

    def __init__(self, exporter):
        self.exporter = exporter

    def export(self, spans):
        self.exporter.export(spans)
        return self.exporter.export(spans)

    def shutdown(self):
        self.exporter.shutdown()


def send_calls(caller, callee):
    """Calls from a service that exports with `caller` to one with `callee`; answers with the ids: all, and the failed."""
    providers = []
    for service, exporter in (("shop", caller), ("bank", callee)):
        providers.append(TracerProvider(resource=Resource.create({"service.name": service})))
        providers[-1].add_span_processor(BatchSpanProcessor(Twice(exporter)))
    shop, bank = (provider.get_tracer("interop") for provider in providers)
    sent, failed = set(), set()
    for number in range(SAMPLED_TRACES):
        root = shop.start_span("buy")
        context = root.get_span_context()
        trace_id = f"{context.trace_id:032x}"
        sent.add(trace_id)
        child = bank.start_span("charge", context=set_span_in_context(NonRecordingSpan(context)))
        if number % FAILED_EVERY == 0:
            failed.add(trace_id)
            child.set_status(StatusCode.ERROR, "no money")
        child.end()
        root.end()
    for provider in providers:
        provider.shutdown()
    return sent, failed


def check_sampled(backend, nodes, before, sent, failed):
    """What is wrong with what came of the calls, as a list of sentences."""
    spans = 2 * len(sent)

    def grown(name):
        return sum(node.count(name) for node in nodes) - before[name]

    def is_over():
        return grown("received_local") == 2 * spans and all(node.has_decided_all() for node in nodes)

    try:
        wait_for("the calls to be decided", is_over)
    except SystemExit as gave_up:
        return [str(gave_up)]
    wrong = []
    expected = {"duplicate": spans, "exported": 2 * len(failed), "sampled_out": spans - 2 * len(failed)}
    counted = {name: grown(name) for name in expected}
    if counted != expected:
        wrong.append(f"the ledgers grew by {counted}, expected {expected}")
    with backend.changed:
        came = {trace_id for trace_id in sent if backend.spans.get(trace_id)}
        if came != failed:
            wrong.append(f"{len(came - failed)} traces came that had not failed, {len(failed - came)} that had did not")
        for trace_id in came & failed:
            seen = sorted(rest for _, *rest in backend.spans[trace_id])
            owner = nodes[0].owner_of(trace_id)
            if seen != [[owner, "bank", "west"], [owner, "shop", "east"]]:
                wrong.append(f"trace {trace_id} of {owner} came as {seen}")
    return wrong


def check(backend, owner, cluster, service, trace_ids):
    """What is wrong with what the backend got, as a list of sentences."""

    def complete():
        with backend.changed:
            return all(len(backend.spans[trace_id]) >= SPANS_PER_TRACE for trace_id in trace_ids)

    try:
        wait_for(f"the traces of {service}", complete)
    except SystemExit as gave_up:
        return [str(gave_up)]
    wrong = []
    with backend.changed:
        for trace_id in trace_ids:
            spans = backend.spans[trace_id]
            if len({span_id for span_id, *_ in spans}) != len(spans) or len(spans) != SPANS_PER_TRACE:
                wrong.append(f"trace {trace_id} has {len(spans)} spans: {spans}")
            expected = {(owner.id, service, cluster)}
            if {tuple(rest) for _, *rest in spans} != expected:
                wrong.append(f"trace {trace_id} came as {spans}, expected {expected}")
    return wrong


def main():
    backend = Backend()
    threading.Thread(target=backend.serve_forever, daemon=True).start()
    directory = pathlib.Path(tempfile.mkdtemp(prefix="spanmesh-interop-"))
    certs = directory / "certs"
    subprocess.run([SPANMESH, "certs", "init", "--dir", certs], check=True, stdout=subprocess.DEVNULL)
    for cluster in ("east", "west"):
        command = [SPANMESH, "certs", "issue", "--dir", certs, "--cluster", cluster, "--node", "node-0"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    nodes = []
    passed = failed = 0
    try:
        east = Node(directory, "east", [], backend)
        nodes.append(east)
        west = Node(directory, "west", [east.addresses["mesh"]], backend)
        nodes.append(west)
        wait_for("the mesh", lambda: east.sees(2) and west.sees(2))

        grpc, web = f"http://{east.addresses['otlp_grpc']}", f"http://{east.addresses['otlp_http']}"
        senders = {
            "python-grpc": lambda ids: send_with_python(GrpcExporter(endpoint=grpc, insecure=True), "python-grpc", ids),
            "python-http": lambda ids: send_with_python(
                HttpExporter(endpoint=f"{web}/v1/traces", compression=Compression.Gzip), "python-http", ids
            ),
            "rust-grpc": lambda ids: subprocess.run([RUST_SENDER, "grpc", grpc, *ids], check=True),
            "rust-http": lambda ids: subprocess.run([RUST_SENDER, "http", f"{web}/v1/traces", *ids], check=True),
        }
        for service, send in senders.items():
            trace_ids = traces_owned_by(west, east, TRACES_EACH)
            send(list(trace_ids))
            wrong = check(backend, west, "east", service, trace_ids)
            print(f"{service}: {TRACES_EACH} traces sent to {east.id}, owned by {west.id}:", "FAILED" if wrong else "whole")
            for sentence in wrong:
                print("   ", sentence)
            passed, failed = passed + (not wrong), failed + bool(wrong)

        before = {
            name: east.count(name) + west.count(name)
            for name in ("received_local", "duplicate", "exported", "sampled_out")
        }
        bank = HttpExporter(endpoint=f"http://{west.addresses['otlp_http']}/v1/traces")
        sent, failures = send_calls(GrpcExporter(endpoint=grpc, insecure=True), bank)
        wrong = check_sampled(backend, nodes, before, sent, failures)
        calls = f"{len(sent)} calls from {east.id} to {west.id}, {len(failures)} failed:"
        print(calls, "FAILED" if wrong else "only these came")
        for sentence in wrong:
            print("   ", sentence)
        passed, failed = passed + (not wrong), failed + bool(wrong)
    finally:
        for node in nodes:
            node.stop()
    print(f"{passed} passed, {failed} failed")
    if failed:
        print(f"logs and configuration: {directory}", file=sys.stderr)
    return 1 if failed or passed != 5 else 0


if __name__ == "__main__":
    sys.exit(main())
