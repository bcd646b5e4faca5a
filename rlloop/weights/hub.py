"""Files of the Hugging Face Hub, by huggingface_hub: address, token, content. The bytes come through download.py.

huggingface_hub itself begins anew after an interruption: 2.x gives every attempt a file of its own and removes it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rlloop.weights.catalogue import Hub
from rlloop.weights.download import ON_ITS_WAY, Interrupted, Network, Remote, refusal, without_secrets

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata


def locate(source: Hub, network: Network) -> Remote:
    """Asks the Hub what it has: the content's checksum, its size, the commit.

    Raises:
        ValueError: not there, not allowed or not reached; one line without the token.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(source.repo, source.path, revision=source.revision, endpoint=network.endpoint)
    name, headers = without_secrets(url), build_hf_headers()
    for in_vain in range(1, network.tries + 1):
        try:
            found = _ask(source, url, headers, network)
            break
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        except Interrupted as error:
            if in_vain == network.tries:
                raise ValueError(f"{name}: {error}; try later, or `rlloop weights import` the file") from None
            network.wait(in_vain)
    etag = found.etag or ""
    return Remote(
        url,
        name.replace(f"/{source.revision}/", f"/{found.commit_hash or source.revision}/", 1),
        {key: value for key, value in headers.items() if key.lower() == "authorization"},
        etag,
        found.size,
        stated(etag),
    )


def _ask(source: Hub, url: str, headers: dict[str, str], network: Network) -> HfFileMetadata:
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        return get_hf_file_metadata(url, headers=headers, timeout=network.connect_s)
    except GatedRepoError:
        raise ValueError(gated(source, "authorization" in headers)) from None
    except RepositoryNotFoundError:
        raise ValueError("there is no such repository, or it is not open to you; check HF_TOKEN") from None
    except HfHubHTTPError as error:
        status, reason = error.response.status_code, error.response.reason_phrase
        if status in ON_ITS_WAY:
            raise Interrupted(f"the Hub answers {status} {reason}") from None
        raise ValueError(refusal(status, reason)) from None
    except Exception as error:  # its HTTP library, and so the type, changes between releases
        raise Interrupted(f"the Hub was not reached ({type(error).__name__}): is there a network?") from None


def stated(etag: str) -> str:
    """The checksum in a Hub's ETag: sha256 of a large file, git's sha1 of a small one; "" for any other."""
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return f"sha256:{etag}"
    return f"git:{etag}" if re.fullmatch(r"[0-9a-f]{40}", etag) else ""


def gated(source: Hub, has_token: bool) -> str:
    """What to do about a repository that asks for consent."""
    page = f"https://huggingface.co/{source.repo}"
    if has_token:
        return f"is gated, and your token has no access: accept the conditions at {page} with that account"
    return f"is gated: accept the conditions at {page}, then set HF_TOKEN (or `hf auth login`) and fetch again"
