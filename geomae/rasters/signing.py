"""Signatures for links of archives that require one: requested when a file is opened, and kept in memory only.

The address of such a file is `NAME+https://...`; NAME is the signing service (see `stac.sign` of the catalogue).
"""

import json
import re
import threading
import time
from datetime import datetime
from urllib.parse import urlsplit

from geomae.catalog.links import SIGNED_HOSTS
from geomae.errors import RasterError

# https://planetarycomputer.microsoft.com/docs/concepts/sas/: a token for each container of a storage account
TOKENS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
TIMEOUT_S = 30
MARGIN_S = 300  # a signature that expires sooner is renewed
SIGNATURE = re.compile(r"\?[^\s'\"?]*\bsig=[^\s'\"]*")
_LOCK = threading.Lock()
_TOKENS: dict[str, tuple[str, float]] = {}  # by account and container: the query string, and when it expires


def signed(path: str) -> str:
    """The address that opens `path`: signed where it names a signing service, else `path`. Keep it secret.

    Raises RasterError where no signature can be obtained.
    """
    signer, plus, url = path.partition("+")
    if not plus or signer not in SIGNED_HOSTS or not url.startswith("https://"):
        return path
    parts = urlsplit(url)
    container = f"{parts.netloc.partition('.')[0]}/{parts.path.lstrip('/').partition('/')[0]}"
    with _LOCK:
        token, end = _TOKENS.get(container, ("", 0.0))
        if end - time.time() < MARGIN_S:
            token, end = _TOKENS[container] = _ask(container, path)
    return f"{url}?{token}"


def without_signatures(text: str) -> str:
    """A message of GDAL, which may name a signed address, without signatures."""
    return SIGNATURE.sub("", text)


def _ask(container: str, path: str) -> tuple[str, float]:
    from urllib.request import urlopen  # imported here, because it takes some ms and is rarely needed

    try:
        with urlopen(f"{TOKENS}/{container}", timeout=TIMEOUT_S) as answer:
            said = json.load(answer)
        return str(said["token"]), datetime.fromisoformat(said["msft:expiry"]).timestamp()
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", None) or error
        raise RasterError(
            f"{path}: {urlsplit(TOKENS).netloc} gives no signature ({reason}); try again later"
        ) from error
