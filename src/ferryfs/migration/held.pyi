from typing import Self, final

@final
class Held:
    def __new__(cls, data: bytes | bytearray | memoryview) -> Self: ...
