"""The calls of the API, found in the generated descriptors: path, message types, streaming."""

import dataclasses
from typing import Any

from google.protobuf import empty_pb2, message_factory  # noqa: F401  (empty_pb2 registers its descriptor)
from google.protobuf.message import Message

from .v1 import adapters_pb2, daemon_pb2, datasets_pb2, jobs_pb2, rewards_pb2

_FILES = (jobs_pb2, datasets_pb2, adapters_pb2, daemon_pb2, rewards_pb2)
_SERVICES = {s.name: s for file in _FILES for s in file.DESCRIPTOR.services_by_name.values()}


@dataclasses.dataclass(frozen=True)
class Method:
    """One RPC."""

    path: str  # "/finetuned.v1.Jobs/GetJob"
    request: type[Message]
    response: type[Message]
    kind: str  # "unary_unary", "unary_stream", "stream_unary", "stream_stream": grpc.Channel's method for it

    def multicallable(self, channel: Any) -> Any:
        """To call it; `channel` is a grpc.Channel or a grpc.aio.Channel."""
        return getattr(channel, self.kind)(
            self.path, request_serializer=self.request.SerializeToString, response_deserializer=self.response.FromString
        )


def find(name: str) -> Method:
    """find("Jobs.GetJob")"""
    service, _, call = name.partition(".")
    descriptor = _SERVICES[service].methods_by_name[call]
    kinds = ("stream" if s else "unary" for s in (descriptor.client_streaming, descriptor.server_streaming))
    return Method(
        f"/{_SERVICES[service].full_name}/{call}",
        message_factory.GetMessageClass(descriptor.input_type),
        message_factory.GetMessageClass(descriptor.output_type),
        "_".join(kinds),
    )
