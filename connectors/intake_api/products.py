"""The bodies of the system that this one replaces: a product that is added or deleted."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import unquote_to_bytes

import msgspec
from msgspec import Meta

from connectors.intake_api.answers import Refusal
from connectors.intake_api.events import DuplicateName, one_value

_LONGEST = 256
_TEXT = Meta(min_length=1, max_length=_LONGEST)
# Not before a line end, which Python's `$` would allow.
_DECIMAL = Meta(pattern=r"^-?[0-9]{1,30}(\.[0-9]{1,30})?(?!\n)$")


class Product(msgspec.Struct, frozen=True):
    """As the old script sent it: `id` and `price` as number or text."""

    id: Annotated[str, _TEXT] | int | float
    name: Annotated[str, _TEXT]
    price: Annotated[str, _DECIMAL] | int | float


class DeletedProduct(msgspec.Struct, frozen=True):
    """What is left of a product that is deleted."""

    id: str
    name: None = None
    price: None = None


class ProductMessage(msgspec.Struct, frozen=True):
    """The message on the products topic."""

    product: Product | DeletedProduct
    action: Literal["add", "delete"]


def product_in(body: bytes) -> Product:
    """The product of a body. Raises Refusal, which names the field at fault."""
    try:
        one_value(body)
        return _PRODUCT.decode(body)
    except msgspec.ValidationError as error:
        detail, _, path = str(error).partition(" - at `$.")
        if not path and detail.startswith("Object missing required field"):
            path = detail.split("`")[1]
        raise Refusal(422, detail, path.rstrip("`") or None) from None
    except RecursionError:
        raise Refusal(422, "nested too deeply") from None
    except DuplicateName as error:
        raise Refusal(422, str(error), error.name) from None
    except ValueError as error:
        raise Refusal(422, f"not JSON: {error}") from None


def product_id_in(path: bytes) -> str:
    """The id at the end of a path, as it came. Raises Refusal."""
    try:
        id_ = unquote_to_bytes(path.rpartition(b"/")[2]).decode()
    except UnicodeDecodeError as error:
        raise Refusal(422, f"not UTF-8: {error.reason} at byte {error.start}", "id") from None
    if not 0 < len(id_) <= _LONGEST:
        raise Refusal(422, f"an id is 1 to {_LONGEST} characters", "id")
    return id_


def key_of_product(product: Product | DeletedProduct) -> bytes:
    """The record's key: the product's id as text."""
    return str(product.id).encode(errors="surrogatepass")


_PRODUCT = msgspec.json.Decoder(Product)


def added(product: Product) -> bytes:
    return msgspec.json.encode(ProductMessage(product, "add"))


def deleted(id_: str) -> bytes:
    return msgspec.json.encode(ProductMessage(DeletedProduct(id_), "delete"))
