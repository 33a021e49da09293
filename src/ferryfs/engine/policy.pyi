from typing import Final

ID_KINDS: Final[dict[str, int]]
XATTR_SCOPES: Final[dict[str, int]]
XATTR_ACTIONS: Final[dict[str, int]]
