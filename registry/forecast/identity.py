"""Which version answered: the part of a reply by which a client can find it again."""

from dataclasses import dataclass

DIGITS = 12  # of the manifest's sha256 in a reply


@dataclass(frozen=True)
class Identity:
    """A version. `number` is None where only its files are known, not the registry."""

    model: str
    number: int | None
    manifest_sha256: str

    @property
    def note(self) -> str:
        """For the notes of a frame: nbeats version 3, or nbeats manifest 5a1e09c2f7b4."""
        if self.number is None:
            return f"{self.model} manifest {self.manifest_sha256[:DIGITS]}"
        return f"{self.model} version {self.number}"

    @property
    def fields(self) -> dict[str, str | int | None]:
        """For a packed reply."""
        manifest = self.manifest_sha256[:DIGITS]
        return {"model": self.model, "version": self.number, "manifest": manifest}
