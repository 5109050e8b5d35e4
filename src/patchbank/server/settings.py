"""The options of `patchbank serve`, once: flags, TOML file and `docs/reference/configuration.md` are made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from patchbank.config import option
from patchbank.errors import ConfigError
from patchbank.validation import memory_budget, names_checked, validate

MEGABYTE = 1_000_000


@names_checked
@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of the service. Raises ConfigError for an unknown or impossible value."""

    # address
    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 or :: for all of the machine's", group="address")
    port: int = option(8080, "Port to listen on; 0 = any free one", group="address", low=0, high=65535)
    tls_cert: str | None = option(
        None, "Certificate chain (PEM file); with tls_key the service speaks HTTPS", group="address"
    )
    tls_key: str | None = option(None, "Private key of the certificate (PEM file, not encrypted)", group="address")
    trusted_proxies: str = option(
        "",
        "Addresses or networks, with commas, of reverse proxies whose X-Forwarded-For and X-Forwarded-Proto are "
        "believed; empty = none",
        group="address",
    )
    public_url: str | None = option(
        None, "Address that browsers use, if it is another one: https://quality.example", group="address"
    )
    # data
    data: str = option(
        "patchbank-data", "Folder of the database, the images and the models; made where it is missing", group="data"
    )
    database: str | None = option(
        None,
        "URL of a PostgreSQL database (postgresql://user@host/name; the password from ~/.pgpass or PGPASSWORD), which "
        "several services may share; unset = an embedded SQLite database in the data folder",
        group="data",
    )
    # limits
    max_body_mb: int = option(50, "Largest body of a request, in MB of 10^6 bytes", group="limits", low=1, high=2000)
    max_model_mb: int = option(
        500, "Largest model file that is uploaded, in MB of 10^6 bytes", group="limits", low=1, high=100_000
    )
    timeout: float = option(
        30.0, "Seconds in which a body must have arrived, and in which it must be answered", group="limits", low=1.0,
        high=3600.0,
    )  # fmt: skip
    queue: int = option(
        8,
        "Images that may wait for each model, beside those that are inspected; more are refused with 503",
        group="limits",
        low=1,
        high=1000,
    )
    max_connections: int = option(
        256, "Connections at a time; more are refused with 503", group="limits", low=4, high=10_000
    )
    # work
    workers: int = option(
        2,
        "Images that each model inspects at a time. Two use all processors: they share the threads, and one computes "
        "while the other one waits",
        group="work",
        low=1,
        high=64,
    )
    job_memory: str = option(
        "auto",
        "Memory that a job (a fit, an update) may take, as '8GB'; one that needs more fails. 'auto' = half of the "
        "machine's",
        group="work",
    )
    job_threads: int = option(
        0, "Threads of a job; 0 = one for each processor. Jobs run one at a time, at low priority", group="work", low=0,
        high=1024,
    )  # fmt: skip
    image_roots: str = option(
        "",
        "Folders, with commas, below which engineers may have images read for a dataset; empty = none",
        group="work",
    )
    # log
    log_format: str = option("text", "Log lines on stderr: for people, or JSON", group="log", choices=("text", "json"))
    log_level: str = option(
        "info", "The least that is logged", group="log", choices=("debug", "info", "warning", "error")
    )
    # stop
    stop_delay: float = option(
        1.0,
        "Seconds between SIGTERM, when /readyz begins to answer 503, and the last request that is taken: for load "
        "balancers",
        group="stop",
        low=0.0,
        high=600.0,
    )
    stop_timeout: float = option(
        30.0, "Seconds that requests under way have to end after that", group="stop", low=0.0, high=600.0
    )

    def __post_init__(self) -> None:
        validate(self)
        if bool(self.tls_cert) != bool(self.tls_key):
            missing, given = ("tls_key", "tls_cert") if self.tls_cert else ("tls_cert", "tls_key")
            raise ConfigError(f"{missing}: expected a file, because {given} is given; HTTPS needs both")
        _ = self.proxies
        _ = self.job_bytes
        if self.public_url and not re.fullmatch(r"https?://[^/\s?#]+/?", self.public_url):
            raise ConfigError(f"public_url: expected http(s)://host, without a path; got {self.public_url!r}")

    @property
    def max_body(self) -> int:
        """Returns the largest body in bytes."""
        return self.max_body_mb * MEGABYTE

    @property
    def max_model(self) -> int:
        """Returns the largest model file in bytes."""
        return self.max_model_mb * MEGABYTE

    @property
    def proxies(self) -> tuple[str, ...]:
        """Returns the addresses and networks of trusted proxies. Raises ConfigError for one that is none."""
        found = tuple(part.strip() for part in self.trusted_proxies.split(",") if part.strip())
        for each in found:
            try:
                _ = ip_network(each) if "/" in each else ip_address(each)
            except ValueError:
                raise ConfigError(
                    f"trusted_proxies: expected addresses or networks such as 10.0.0.5 or 10.0.0.0/24; got {each!r}"
                ) from None
        return found

    @property
    def job_bytes(self) -> int:
        """Returns the bytes of memory that a job may take. Raises ConfigError for a text that is no size."""
        try:
            return memory_budget(self.job_memory)
        except ConfigError as error:
            raise ConfigError(f"job_{error}") from None

    @property
    def image_folders(self) -> list[str]:
        """Returns the folders below which images may be read."""
        return [part.strip() for part in self.image_roots.split(",") if part.strip()]

    @property
    def scheme(self) -> str:
        """Returns 'https' with a certificate, else 'http'."""
        return "https" if self.tls_cert else "http"
