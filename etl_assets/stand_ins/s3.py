"""S3 on this machine: moto's server, which comes with the extra `stand-ins`. It keeps objects in memory."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import requests

from etl_assets.errors import EtlError


class NoStandIn(EtlError):
    """The stand-in is not installed."""


@contextmanager
def serve_s3(bucket: str) -> Iterator[Mapping[str, str]]:
    """A bucket that is served on 127.0.0.1 while the block runs: the settings that send AWS's client there."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise NoStandIn(
            "the stand-in for S3 is not installed: pip install 'etl-assets[stand-ins]' (make demo-cloud does it)"
        ) from error
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line for each request
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        environment = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "stand-in",
            "AWS_SECRET_ACCESS_KEY": "stand-in",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }
        # Not by AWS's client, which would look for the user's own profile.
        requests.put(f"{environment['AWS_ENDPOINT_URL']}/{bucket}", timeout=10).raise_for_status()
        yield environment
    finally:
        server.stop()
