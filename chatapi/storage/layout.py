"""The layout of the data directory: the name of every file and folder in it.

What is inside the folder of one model, one job or one engine's cache belongs to the module that owns it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PRIVATE = (
    "history.*",
    "jobs.*",
    "coverage.*",
    "overrides.*",
    ".overrides.lock",
    "keys.json",
    "keys-used.json",
    ".keys.lock",
    "local-*.key",
    "key_file.json",
    "audit.log*",
    "certificates/*.pem",
    "voices/*/*",
    "commands.*",
    "commands/*",
    "commands/*/*",
)
"""Files with conversations, jobs, samples of speech, keys and names of clients; others may read models."""


@dataclass(frozen=True)
class DataDirectory:
    """The paths in one data directory. None needs to exist; only `private` and `local_keys` read the disk."""

    root: Path

    @property
    def history(self) -> Path:
        """The database of conversations; SQLite adds `-wal` and `-shm` files beside it."""
        return self.root / "history.sqlite3"

    @property
    def jobs_database(self) -> Path:
        """The database of jobs; SQLite adds `-wal` and `-shm` files beside it."""
        return self.root / "jobs.sqlite3"

    @property
    def jobs(self) -> Path:
        """The jobs' own folders, one per job, named by its id."""
        return self.root / "jobs"

    @property
    def coverage(self) -> Path:
        """The coverage ledger of monitored streams; SQLite adds `-wal` and `-shm` files beside it."""
        return self.root / "coverage.sqlite3"

    @property
    def monitoring(self) -> Path:
        """Detections: `outbox` has what is to be stored, `detections` is the store where no other is named."""
        return self.root / "monitoring"

    @property
    def voices(self) -> Path:
        """The voices for voice conversion, one folder per voice, named by its id."""
        return self.root / "voices"

    @property
    def command_database(self) -> Path:
        """The database of the samples and versions of commands; SQLite adds `-wal` and `-shm` files beside it."""
        return self.root / "commands.sqlite3"

    @property
    def command_samples(self) -> Path:
        """The samples of commands, a WAV file each, named by its id."""
        return self.root / "commands" / "samples"

    @property
    def command_versions(self) -> Path:
        """The versions of the taught command classifier, a file each."""
        return self.root / "commands" / "versions"

    @property
    def models(self) -> Path:
        """The installed models, one folder per model, named as its manifest."""
        return self.root / "models"

    def model_lock(self, name: str) -> Path:
        """The lock that is held while a model is fetched, built or removed."""
        return self.models / ".locks" / name

    def partial_model(self, name: str) -> Path:
        """The folder of a model that is being fetched."""
        return self.models / ".partial" / name

    def importing(self, name: str) -> Path:
        """The folder of a model that is being converted from a checkpoint."""
        return self.models / ".importing" / name

    @property
    def models_lock(self) -> Path:
        """The digests of model files whose manifest states none; the lock `.models.lock` is beside it."""
        return self.root / "models.lock"

    @property
    def manifests(self) -> Path:
        """The user's own manifests."""
        return self.root / "manifests"

    @property
    def compiled(self) -> Path:
        """The compiled models, one folder per model, named as its manifest."""
        return self.root / "compiled"

    def partial_compiled(self, name: str) -> Path:
        """The folder of a model that is being compiled."""
        return self.compiled / ".partial" / name

    @property
    def coqui(self) -> Path:
        """The unpacked Coqui voices, one folder per model."""
        return self.root / "coqui"

    @property
    def tensorrt(self) -> Path:
        """TensorRT's engine caches, one folder per ONNX file, named by the file's stem."""
        return self.root / "tensorrt"

    @property
    def prepared(self) -> Path:
        """The ONNX graphs prepared for this machine's processor, one folder per model and version of ONNX Runtime."""
        return self.root / "prepared"

    @property
    def keys(self) -> Path:
        """The API keys, hashed."""
        return self.root / "keys.json"

    @property
    def keys_used(self) -> Path:
        """The time of each API key's last use."""
        return self.root / "keys-used.json"

    @property
    def keys_lock(self) -> Path:
        """The lock that is held while the API keys change."""
        return self.root / ".keys.lock"

    def local_key(self, port: int) -> Path:
        """The key for commands on this machine to the server at a port; it exists while the server runs."""
        return self.root / f"local-{port}.key"

    def local_keys(self) -> Iterator[Path]:
        """The key files of all servers that run with this data directory. Raises OSError."""
        yield from self.root.glob("local-*.key")

    @property
    def torchserve_tokens(self) -> Path:
        """The tokens of the TorchServe interface, in TorchServe's form; it exists while the server runs."""
        return self.root / "key_file.json"

    @property
    def torchserve_models(self) -> Path:
        """The models that clients registered by the TorchServe interface, in the form of its snapshots."""
        return self.root / "torchserve-models.json"

    @property
    def overrides(self) -> Path:
        """The overrides of settings, one dotted key a line."""
        return self.root / "overrides.toml"

    @property
    def overrides_lock(self) -> Path:
        """The lock that is held while the overrides change."""
        return self.root / ".overrides.lock"

    @property
    def accepted_servers(self) -> Path:
        """The fingerprints of the servers that this machine accepted as a client."""
        return self.root / "boxes.json"

    @property
    def server_jobs(self) -> Path:
        """The folder of the jobs that `chatapi transcribe --server` began and whose transcripts are to come."""
        return self.root / "server-jobs"

    @property
    def certificates(self) -> Path:
        """The folder of the generated certificates."""
        return self.root / "certificates"

    @property
    def authority_certificate(self) -> Path:
        """The authority's certificate, in PEM, for devices that shall trust it."""
        return self.certificates / "authority.crt"

    @property
    def authority(self) -> Path:
        """The authority's certificate and key, in PEM."""
        return self.certificates / "authority.pem"

    @property
    def server_certificate(self) -> Path:
        """The server's certificate, the authority's, and the server's key, in PEM."""
        return self.certificates / "server.pem"

    @property
    def audit_log(self) -> Path:
        """The audit log; older parts have a number behind the name."""
        return self.root / "audit.log"

    @property
    def bench_picture(self) -> Path:
        """The timelines of the last live benchmark, as SVG."""
        return self.root / "bench" / "live.svg"

    @property
    def bench_budget(self) -> Path:
        """Where the latency of the last live benchmark went, as SVG."""
        return self.root / "bench" / "live-budget.svg"

    def private(self) -> Iterator[Path]:
        """The folders and files that only their owner may read, the folders first; a link to the root is followed."""
        inside = DataDirectory(self.root.resolve())
        yield from (inside.root, inside.certificates)
        with suppress(OSError):
            for pattern in PRIVATE:
                yield from inside.root.glob(pattern)
