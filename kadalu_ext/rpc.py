"""What every gRPC server of this project does alike: errors to codes, one log line a call, no secret in it.

Servicers raise from errors.py and know no codes; the interceptor here turns what they raise into a status.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

from kadalu_ext import errors
from kadalu_ext.log import Logger

CODES: Final[dict[type[BaseException], grpc.StatusCode]] = {
    errors.InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.PvNameError: grpc.StatusCode.INVALID_ARGUMENT,
    # A record or volfile is not the caller's input: it is what the volume holds, and a person must look at it. Once it
    # is mended the next try succeeds, whereas csi-provisioner does not try INVALID_ARGUMENT again for minutes.
    errors.RecordError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ClaimError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.VolfileError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ConflictError: grpc.StatusCode.ALREADY_EXISTS,
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.CapacityError: grpc.StatusCode.OUT_OF_RANGE,
    errors.UnsupportedVolumeError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.QuotaError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.InProgressError: grpc.StatusCode.ABORTED,
    errors.TokenError: grpc.StatusCode.ABORTED,
    errors.DeadlineError: grpc.StatusCode.DEADLINE_EXCEEDED,
    # csi-provisioner takes UNAVAILABLE for "may still be going on" and asks again until it knows, so that nothing is
    # left behind when a claim is deleted meanwhile. It would not after INTERNAL.
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.WireError: grpc.StatusCode.UNAVAILABLE,
    errors.VolumeIOError: grpc.StatusCode.UNAVAILABLE,
}
"""The one table. A class stands for its subclasses, unless they have a row of their own."""

Told = Callable[[str, grpc.StatusCode, float], None]
"""Is called after each call: its method, what became of it, and the seconds that it took."""


def code_of(error: BaseException) -> grpc.StatusCode:
    """The gRPC code of an exception: its nearest ancestor's row, INTERNAL for what is not ours."""
    for cls in type(error).__mro__:
        if cls in CODES:
            return CODES[cls]
    return grpc.StatusCode.INTERNAL


class ErrorsToCodes(grpc.ServerInterceptor):  # type: ignore[misc,unused-ignore]
    """Logs each call once, with id, duration and outcome, and turns exceptions into a status with the message whole."""

    def __init__(self, log: Logger, *, quiet: frozenset[str] = frozenset(), told: Told = lambda *_: None) -> None:
        self._log = log
        self._told = told
        self._quiet = quiet
        """Methods that are called all the time and logged only if they fail."""
        self._ids = itertools.count(1)

    def intercept_service(self, continuation: Callable[[Any], Any], handler_call_details: Any) -> Any:
        handler = continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        method = handler_call_details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._call(method, handler.unary_unary, request, context),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _call(
        self, method: str, behaviour: Callable[[Any, Any], Any], request: Any, context: grpc.ServicerContext
    ) -> Any:
        started = time.monotonic()
        fields: dict[str, object] = {"method": method, "request_id": next(self._ids), **_identity(request)}
        try:
            reply = behaviour(request, context)
        except errors.KadaluExtError as error:
            code, message = code_of(error), str(error)
            self._log.warning("call failed", **fields, code=code.name, reason=message, seconds=_since(started))
        except NotImplementedError:
            # what the generated servicers do for a call of the specification that we do not serve
            code, message = grpc.StatusCode.UNIMPLEMENTED, f"{method}: not served, and not announced"
        except Exception:
            code, message = (
                grpc.StatusCode.INTERNAL,
                f"{method}: unexpected error; its traceback is in the log of this pod",
            )
            self._log.exception("call crashed", **fields, seconds=_since(started))
        else:
            if method not in self._quiet:
                self._log.info("call", **fields, code="OK", seconds=_since(started))
            self._told(method, grpc.StatusCode.OK, time.monotonic() - started)
            return reply
        self._told(method, code, time.monotonic() - started)
        context.abort(code, message)
        raise AssertionError("abort raises")


def _since(started: float) -> float:
    return round(time.monotonic() - started, 4)


def _identity(request: Any) -> dict[str, object]:
    """What tells calls apart in a log: never the whole request, which may hold secrets."""
    names = ("name", "volume_id", "target_path", "staging_target_path", "storage")
    return {f"req_{name}": value for name in names if isinstance(value := getattr(request, name, None), str) and value}


def serve_unix(
    path: str, *, log: Logger, workers: int, quiet: frozenset[str] = frozenset(), told: Told = lambda *_: None
) -> grpc.Server:
    """A gRPC server listening on the unix socket `path` (an old socket there is removed); not yet started.

    The socket is writable for its owner only (gRPC makes it 0755 at most), so only root can connect to root's.

    Raises: OSError if the socket cannot be made.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.exists(path):
        os.unlink(path)
    server = grpc.server(
        ThreadPoolExecutor(max_workers=workers, thread_name_prefix="rpc"),
        interceptors=[ErrorsToCodes(log, quiet=quiet, told=told)],
    )
    if server.add_insecure_port(f"unix:{path}") == 0:
        raise OSError(f"{path}: gRPC cannot listen on this socket")
    return server
