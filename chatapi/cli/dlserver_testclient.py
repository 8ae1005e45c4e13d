"""`dlserver_testclient HOST:PORT [LABEL] < sample.wav`: classifies a clip over gRPC, or submits it as a sample."""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from chatapi import settings
from chatapi.auth import local_key
from chatapi.client.connecting import KEY
from chatapi.errors import ChatapiError


def main() -> None:
    """Run it and exit with its status."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Print the label and its probability, or what became of the sample. Status 1 when the server rejects it, or cannot
    be reached."""
    parser = argparse.ArgumentParser("dlserver_testclient", description=__doc__)
    parser.add_argument("address", metavar="HOST:PORT")
    parser.add_argument("label", nargs="?", metavar="LABEL", help="submit the clip as a sample of this word")
    chosen = parser.parse_args(arguments)
    try:
        import grpc

        from chatapi.client.commands import CommandClient
    except ImportError:
        print("dlserver_testclient needs the extra grpc: pip install 'chatapi-appliance[grpc]'", file=sys.stderr)
        return 2
    audio = sys.stdin.buffer.read()
    try:
        with CommandClient(chosen.address, _key(chosen.address)) as client:
            if chosen.label is None:
                found = client.classify(audio)
                print(f"{found.label} {found.probability:.2f}")
            else:
                sample = client.submit(audio, chosen.label).sample
                print(f"{sample.state}: {sample.reason}" if sample.reason else sample.state)
    except grpc.RpcError as error:
        code = dict(error.trailing_metadata() or ()).get("chatapi-code", "")
        shown = f"{error.code().name} ({code})" if code else error.code().name
        print(f"dlserver_testclient: {shown}: {error.details()}", file=sys.stderr)
        return 1
    return 0


def _key(address: str) -> str:
    """The key of the environment; for the server of this machine also the one for local commands."""
    if given := os.environ.get(KEY):
        return given
    host = address.rpartition(":")[0].strip("[]")
    with suppress(ChatapiError, ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            found = settings.load([]).settings
            own = found.server.api_key
            return own.get_secret_value() if own is not None else local_key(found.data, found.server.port) or ""
    return ""
