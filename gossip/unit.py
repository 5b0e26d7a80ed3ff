"""A systemd user unit that keeps the node of a run folder running: over crashes, logouts and reboots.

The unit resumes from the folder, which holds the node's key and its swarm's (0600): there is no ticket in the unit,
on a command line, or in the environment.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from gossip.data.store import cache_folder
from gossip.doctor import memory_needed
from gossip.errors import SpecError
from gossip.observe import write_atomically
from gossip.runs import RunFolder
from gossip.spec import load
from gossip.swarmfile import read_swarm_file

HEADROOM_BYTES = 512e6  # compiling takes some 300 MB, once
PASSED_ON = ("GOSSIP_DATA", "GOSSIP_CACHE", "NUMBA_CACHE_DIR", "PYTHONPATH")

# No MemoryDenyWriteExecute: kernels are compiled into memory that is then run. Nothing that drops capabilities
# (CapabilityBoundingSet, PrivateDevices, ProtectClock, ProtectKernelModules, ProtectKernelLogs): a user has none to
# drop, and some versions of systemd refuse to start a user's unit over it (status=218/CAPABILITIES).
TEMPLATE = """\
# Made by: gossip unit. Start it with: systemctl --user enable --now {name}
[Unit]
Description=gossip node of {description}
Documentation=man:systemd.exec(5)
ConditionPathExists={swarm_file}
StartLimitIntervalSec=1h
StartLimitBurst=20

[Service]
Type=exec
ExecStart={command}
WorkingDirectory={folder}
{environment}
# A node that is asked to leave says goodbye and writes a checkpoint; one that crashed goes on from the last.
KillSignal=SIGTERM
TimeoutStopSec=90
Restart=on-failure
RestartSec=15
# Wrong usage, or a run that is finished: trying again helps neither.
RestartPreventExitStatus=2 3

# What it may take from whoever works here.
Nice=10
CPUWeight=20
IOWeight=20
MemoryMax={memory_mb}M
TasksMax=256
LimitNOFILE=4096
OOMScoreAdjust=500

# What it may see and do. These need no namespaces and hold everywhere:
UMask=0077
NoNewPrivileges=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
# These make a user namespace. Where the kernel does not let users have one (status=217/USER or 226/NAMESPACE in
# systemctl --user status), delete them.
PrivateUsers=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
InaccessiblePaths=-%h/.ssh -%h/.gnupg
PrivateTmp={private_tmp}
ProtectKernelTunables=yes
ProtectControlGroups=yes

[Install]
WantedBy=default.target
"""


def unit_name(run: RunFolder) -> str:
    """gossip-NAME.service; of a folder's name what systemd takes in one."""
    return f"gossip-{re.sub(r'[^A-Za-z0-9_.-]', '-', run.path.resolve().name)}.service"


def unit_text(run: RunFolder) -> str:
    """The unit of a run folder in which a node has begun. Raises SpecError."""
    folder = run.path.resolve()
    if read_swarm_file(folder) is None:
        hint = "; those of its nodes are under nodes/" if (folder / "nodes").is_dir() else ""
        raise SpecError(f"{run.path}: no node has begun there, so there is nothing a unit could go on with{hint}")
    if re.search(r"[\x00-\x1f]", str(folder)):
        raise SpecError(f"{folder}: a folder with such a name cannot be written into a unit")
    writable = [folder, cache_folder(), *_kernel_caches(), *_backup_folder(folder)]
    command = [sys.executable, "-m", "gossip", "node", "--run-dir", str(folder)]
    variables = [f"{name}={_absolute(name)}" for name in PASSED_ON if os.environ.get(name)]
    return TEMPLATE.format(
        name=unit_name(run),
        description=_escaped(run.experiment().name),
        swarm_file=_escaped(str(folder / "swarm.json")),
        command=" ".join(_quoted(word).replace("$", "$$") for word in command),
        folder=_escaped(str(folder)),
        environment="\n".join(f"Environment={_quoted(each)}" for each in variables),
        writable=" ".join(_quoted(f"-{path}") for path in writable),
        private_tmp="no" if any(folder.is_relative_to(each) for each in ("/tmp", "/var/tmp")) else "yes",
        memory_mb=int((2 * memory_needed(run.experiment()) + HEADROOM_BYTES) / 1e6),
    )


def install(run: RunFolder) -> Path:
    """Write it where the user's systemd looks for it. Raises SpecError."""
    base = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    path = base / "systemd" / "user" / unit_name(run)
    text = unit_text(run)
    try:
        write_atomically(path, text.encode(), mode=0o644)
    except OSError as error:
        raise SpecError(f"{path}: cannot be written ({error.strerror}); without --install it is printed") from error
    return path


def _kernel_caches() -> list[Path]:
    """Where Numba may keep machine code: beside the kernels, else below the user's cache folder."""
    kernels = Path(__file__).parent / "kernels" / "__pycache__"
    return [path for path in (kernels, Path("~/.cache").expanduser()) if os.access(path, os.W_OK)]


def _backup_folder(folder: Path) -> list[Path]:
    """Where the run's own spec.toml wants copies, where that is a folder and no command."""
    target = load(folder / "spec.toml").node.backup
    return [Path(target).expanduser()] if target and "{file}" not in target else []


def _absolute(name: str) -> str:
    """The unit runs elsewhere."""
    return os.pathsep.join(str(Path(part).expanduser().absolute()) for part in os.environ[name].split(os.pathsep))


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(text: str) -> str:
    """One word, whatever is in it, for systemd's own splitting."""
    text = _escaped(text)
    if re.fullmatch(r"[A-Za-z0-9_./%=:@+,-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
