"""The AWS client of the s3 sink: built from AWS's current files, and never interactive.

botocore reads files and runs programs on the event loop, so all of this runs in the sink's own thread.
"""

import asyncio
import base64
import contextlib
import functools
import hashlib
import os
import signal
import subprocess
import threading
import zlib
from pathlib import Path
from typing import Any, Literal, NoReturn
from xml.etree import ElementTree

import aioboto3  # type: ignore[import-untyped]  # which pins the libraries below
from aiobotocore.config import AioConfig  # type: ignore[import-untyped]
from aiobotocore.credentials import AioProcessProvider  # type: ignore[import-untyped]
from aiobotocore.session import AioSession  # type: ignore[import-untyped]
from aiobotocore.utils import AioContainerMetadataFetcher  # type: ignore[import-untyped]
from botocore.credentials import (  # type: ignore[import-untyped]
    AssumeRoleProvider,
    ContainerProvider,
    InstanceMetadataProvider,
    ProcessProvider,
)
from botocore.exceptions import (  # type: ignore[import-untyped]
    BotoCoreError,
    ClientError,
    ConnectionError,  # noqa: A004  botocore's own
    CredentialRetrievalError,
    HTTPClientError,
    InvalidConfigError,
    NoCredentialsError,
)
from botocore.loaders import create_loader  # type: ignore[import-untyped]
from botocore.utils import get_environ_proxies  # type: ignore[import-untyped]

from collector.config.sinks import S3Settings
from collector.files import file_stamp
from collector.model import GpuidError
from collector.redaction import Secrets
from collector.sinks.credentials import tls_context
from collector.sinks.s3_http import CredentialServiceSession, HttpSession, UnusableAnswerError
from collector.sinks.s3_proxy import with_proxy

__all__ = ["ANSWER", "CredentialsError", "S3Client"]

ANSWER = "GpuidAnswer"  # key in a call's result and in a ClientError's response: the raw body

MAX_PROGRAM_BYTES = 1 << 20  # of a credential_process's output
PROGRAM_END_SECONDS = 0.02  # between two checks whether a program that closed its output has ended

_DIRECTORY_BUCKETS = ("--x-s3", "--xa-s3")  # S3 Express One Zone: suffix of its buckets and access points


# Providers of credentials, by botocore's name, and the variable that configures each.
_SOURCES = {
    "assume-role": ("STS", "AWS_ENDPOINT_URL_STS"),
    "assume-role-with-web-identity": ("STS", "AWS_ENDPOINT_URL_STS"),
    "container-role": ("the credential service of the container", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
    "custom-process": ("credential_process", "the program"),
    "iam-role": ("the credential service of the instance", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    "sso": ("SSO", "AWS_ENDPOINT_URL_SSO"),
}


class CredentialsError(GpuidError):
    """AWS's chain provides no credentials; the text says which part of it failed."""


class S3Client:
    """An S3 client, created on demand and again whenever one of its files has changed."""

    def __init__(self, name: str, settings: S3Settings, secrets: Secrets) -> None:
        self._name = name
        self._settings = settings
        self._secrets = secrets
        self._stamps: dict[str, object] = {}  # of the files from which the client was made
        self._checksum: Literal["md5", "crc32", "none"] = "none"
        self._credentials: Any = None
        self._opening: Any = None
        self._client: Any = None

    async def put(self, **parameters: Any) -> Any:
        """Put an object, with the checksum required by the settings or the kind of bucket."""
        client = await self._open()
        return await client.put_object(Bucket=self._settings.bucket, **parameters, **self._digest(parameters["Body"]))

    async def delete(self, **parameters: Any) -> Any:
        """Delete an object."""
        client = await self._open()
        return await client.delete_object(Bucket=self._settings.bucket, **parameters)

    async def close(self) -> None:
        """Discard the client and its credentials, and close its connections."""
        opening, self._opening, self._client, self._credentials = self._opening, None, None, None
        if opening is not None:
            await opening.__aexit__(None, None, None)

    async def _open(self) -> Any:
        if any(file_stamp(file) != stamp for file, stamp in self._stamps.items()):
            await self.close()
        if self._client is None:
            await self._make()
        method = self._credentials.method
        frozen = await _retrieved(self._credentials.get_frozen_credentials, method)
        _check(frozen, method)
        self._secrets.add_renewed(frozen.secret_key, frozen.token)
        return self._client

    async def _make(self) -> None:
        settings = self._settings
        session = _unattended(settings.profile)
        session.set_default_client_config(self._default_config())  # STS and SSO
        session.register("before-parse", _keep_answer)
        # Before reading them: changes during that are noticed at the next call.
        own = [session.get_config_variable(name) for name in ("config_file", "credentials_file")]
        self._stamps = _stamps([*own, settings.ca_file])
        self._stamps |= _stamps(_other_files(session))
        self._checksum = _suitable_checksum(settings, session)
        if settings.ca_file is not None:
            tls_context(self._name, settings.ca_file, None, None)  # its errors name the key
        self._credentials = await session.get_credentials()
        if self._credentials is None:
            raise NoCredentialsError
        opening = aioboto3.Session(botocore_session=session).client(
            "s3",
            region_name=settings.region,
            endpoint_url=settings.endpoint_url,
            verify=str(settings.ca_file) if settings.ca_file else None,
            config=self._client_config(),
        )
        self._client = await opening.__aenter__()
        self._opening = opening

    def _default_config(self) -> Any:
        return _Config(
            connect_timeout=self._settings.connect_timeout,
            read_timeout=self._settings.read_timeout,
            retries={"mode": "standard", "total_max_attempts": 1},
            http_session_cls=with_proxy(HttpSession, self._settings.proxy),
        )

    def _client_config(self) -> Any:
        return AioConfig(
            s3={
                "addressing_style": "path" if self._settings.path_style else "auto",
                # Otherwise, over TLS, a body with its own checksum is not part of the signature.
                "payload_signing_enabled": True,
            },
            # Over TLS, botocore sends checksums as trailers, which many S3 APIs reject. Ours are headers.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )

    def _digest(self, body: bytes) -> dict[str, str]:
        match self._checksum:
            case "md5":
                return {"ContentMD5": _base64(hashlib.md5(body, usedforsecurity=False).digest())}
            case "crc32":
                return {"ChecksumCRC32": _base64(zlib.crc32(body).to_bytes(4, "big"))}
            case "none":
                return {}


class _Config(AioConfig):  # type: ignore[misc]
    """A configuration that keeps its HTTP session class when merged with another, unlike aiobotocore's."""

    def merge(self, other_config: Any) -> Any:
        merged = super().merge(other_config)
        merged.http_session_cls = self.http_session_cls
        return merged


def _suitable_checksum(settings: S3Settings, session: Any) -> Literal["md5", "crc32", "none"]:
    """Return the checksum of the settings or, for "auto", the one that the service supports.

    Every S3 API supports Content-MD5, which is enough for Object Lock, but directory buckets do not. Many other
    services reject or ignore CRC32, which AWS's variable and key select with "when_supported".
    """
    if settings.checksum != "auto":
        return settings.checksum
    if settings.bucket.endswith(_DIRECTORY_BUCKETS):
        return "crc32"
    asked = os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION") or session.get_scoped_config().get(
        "request_checksum_calculation", ""
    )
    return "crc32" if asked.lower() == "when_supported" else "md5"


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()


def _keep_answer(
    operation_model: Any, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any
) -> None:
    customized_response_dict[ANSWER] = response_dict["body"]
    # S3's parser turns the status into an error, where that of STS fails.
    if operation_model.service_model.service_name == "sts" and response_dict["status_code"] >= 300:
        try:
            ElementTree.fromstring(response_dict["body"])  # noqa: S314  as botocore does
        except ElementTree.ParseError:
            response_dict["body"] = b"<ErrorResponse/>"


# Files


def _stamps(files: list[Any]) -> dict[str, object]:
    paths = {str(Path(os.path.expandvars(file)).expanduser()) for file in files if file}
    return {path: file_stamp(path) for path in paths}


def _other_files(session: Any) -> list[Any]:
    """Return the files named in AWS's environment and shared configuration."""
    profiles = session.full_config.get("profiles", {}).values()
    return [
        session.get_config_variable("ca_bundle"),
        os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE"),
        os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        *(profile.get("web_identity_token_file") for profile in profiles),
    ]


# Credentials


async def _retrieved(get: Any, method: str) -> Any:
    """Return the credentials; raises CredentialsError, or the error of a credential service."""
    source, variable = _SOURCES.get(method, (f"AWS's {method}", ""))
    try:
        return await get()
    except (ClientError, ConnectionError, HTTPClientError, InvalidConfigError) as error:
        if isinstance(cause := getattr(error, "kwargs", {}).get("error"), UnusableAnswerError):
            what, _, _ = str(cause).partition(";")  # without the advice for S3
            raise CredentialsError(f"{source} {what}; check {variable}") from None
        raise
    except (BotoCoreError, CredentialsError) as error:
        raise CredentialsError(str(error)) from None
    except KeyError as error:
        raise CredentialsError(f"{source} returned a response without {error.args[0]}") from None
    except (AttributeError, TypeError):
        raise CredentialsError(f"{source} returned a response in an unexpected format") from None
    except Exception as error:  # the parts of the chain may raise anything
        raise CredentialsError(f"{source} failed: {error or type(error).__name__}") from None


def _check(frozen: Any, method: str) -> None:
    """Raise CredentialsError for credentials that cannot sign: botocore accepts any response."""
    source, _ = _SOURCES.get(method, (f"AWS's {method}", ""))
    for name, value in (("AccessKeyId", frozen.access_key), ("SecretAccessKey", frozen.secret_key)):
        if not isinstance(value, str) or not value:
            raise CredentialsError(f"{source} returned a response whose {name} is {_kind(value)}")
    if frozen.token is not None and not isinstance(frozen.token, str):
        raise CredentialsError(f"{source} returned a response whose Token is {_kind(frozen.token)}")


def _kind(value: object) -> str:
    return "empty" if value is None or value == "" else "not a text"


def _unattended(profile: str | None) -> Any:
    """Return a session that never prompts on a terminal, directly or through a program."""
    session = AioSession(profile=profile)
    session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
    for provider in session.get_component("credential_provider").providers:
        provider.load = functools.partial(_retrieved, provider.load, provider.METHOD)
        if isinstance(provider, ContainerProvider):
            provider._fetcher = AioContainerMetadataFetcher(  # noqa: SLF001
                session=CredentialServiceSession(timeout=AioContainerMetadataFetcher.TIMEOUT_SECONDS)
            )
        elif isinstance(provider, InstanceMetadataProvider):
            fetcher = provider._role_fetcher  # noqa: SLF001
            fetcher._session = CredentialServiceSession(  # noqa: SLF001
                timeout=fetcher._timeout,  # noqa: SLF001
                proxies=get_environ_proxies(fetcher._base_url),  # noqa: SLF001
            )
        if isinstance(provider, AssumeRoleProvider):
            provider._prompter = _refuse_to_ask  # noqa: SLF001
            provider._profile_provider_builder._create_process_provider = functools.partial(  # noqa: SLF001
                _process_provider, session
            )
        elif isinstance(provider, ProcessProvider):
            provider._popen = _Program.start  # noqa: SLF001
    return session


@functools.cache
def _loader(data_path: str | None) -> Any:
    """Return a loader of botocore's service descriptions, which take most of the time of creating a client."""
    return create_loader(data_path)


def _refuse_to_ask(prompt: str) -> NoReturn:
    text = f'it prompts for "{prompt.strip()}", which cannot be answered here; use a role without mfa_serial'
    raise CredentialRetrievalError(provider="assume-role", error_msg=text)


def _process_provider(session: Any, profile_name: str) -> Any:
    return AioProcessProvider(profile_name=profile_name, load_config=lambda: session.full_config, popen=_Program.start)


async def _whole(reader: asyncio.StreamReader) -> bytes:
    whole = bytearray()
    while part := await reader.read(1 << 16):
        whole += part
        if len(whole) > MAX_PROGRAM_BYTES:
            text = f"it printed more than {MAX_PROGRAM_BYTES >> 20} MiB"
            raise CredentialRetrievalError(provider="custom-process", error_msg=text)
    return bytes(whole)


class _Program:
    """A `credential_process` without input or terminal, killed on timeout.

    An agent that it starts may hold its output open forever: waiting for that can be cancelled without leaks.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    async def start(cls, *command: str, **options: Any) -> "_Program":
        return cls(subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options))  # noqa: ASYNC220, S603

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return its stdout and stderr, once it has ended and nothing holds them open."""
        loop = asyncio.get_running_loop()
        readers = []
        outputs = (self._process.stdout, self._process.stderr)
        with contextlib.ExitStack() as pipes:
            for pipe in outputs:
                if pipe is not None:
                    pipes.callback(pipe.close)  # also what is not connected when this is cancelled
            try:
                for pipe in outputs:
                    reader = asyncio.StreamReader()
                    transport, _ = await loop.connect_read_pipe(
                        functools.partial(asyncio.StreamReaderProtocol, reader), pipe
                    )
                    pipes.callback(transport.close)
                    readers.append(reader)
                output, errors = await asyncio.gather(*map(_whole, readers))
                while self._process.poll() is None:  # noqa: ASYNC110  there is no event for its end
                    await asyncio.sleep(PROGRAM_END_SECONDS)
            except BaseException:
                self._kill()
                raise
        return output, errors

    def _kill(self) -> None:
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(RuntimeError):  # no thread: Python notices the end itself, some time later
            threading.Thread(target=self._process.wait, name="gpuid credential_process", daemon=True).start()
