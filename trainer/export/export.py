"""Exports a run's policy, completely or not at all.

Input: a run's folder. Output: a folder, or a commit to a repository of the Hub, with merged weights or an
adapter, tokenizer, chat template and model card.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

from inference_server.wire.schemas import ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE
from trainer.config.sections import ExportCommand, TrainConfig
from trainer.errors import UsageError
from trainer.export.card import Exported, model_card, public_path
from trainer.export.hub import push, require_pushable
from trainer.export.merged import save_merged
from trainer.export.target import CARD_FILE, repository_of, require_target
from trainer.export.versions import RunVersion, choose_version, journal_digest
from trainer.io.base_record import read_base, require_same_base, write_base
from trainer.io.disk import raise_disk_full
from trainer.io.durable import fsync
from trainer.io.kept_settings import read_run_config
from trainer.model.base_files import load_tokenizer, require_base_model
from trainer.report.run_record import RunRecord, read_run


def export(command: ExportCommand, say: Callable[[str], None]) -> str:
    """Export what the command says, whose target has been checked before.

    Args:
        command: The run, the version, whether to merge it, and the target.
        say: Gets a line that names the version, and a warning if others do not have the base model or the evaluation is
            of another one.

    Returns:
        The folder, or the repository's address.

    Raises:
        UsageError: The run does not have the version, its base cannot be read or is another one, or the Hub refuses it.
        DiskFullError: There is no space left.
    """
    run = read_run(command.run)
    config = run.config or read_run_config(command.run)  # which says what is wrong with them
    version = choose_version(command.run, step=command.step, best=command.best)
    require_base_model(config.policy.base_model)
    if command.merged:
        require_same_base(command.run, config.policy)
    say(f"{version.folder}, the policy after step {version.step}")
    if run.left_out is not None:
        say(f"warning: {run.left_out}")
    repository = repository_of(command.to)
    if repository is None:
        folder = Path(command.to)
        with raise_disk_full(folder.parent), _new_folder(folder, force=command.force) as temporary:
            _fill(temporary, command, run, config, version)
        return str(folder)
    require_pushable(repository, force=command.force)
    with TemporaryDirectory(prefix="regime-w-export-") as temporary:
        folder = Path(temporary)
        with raise_disk_full(folder):
            exported = _fill(folder, command, run, config, version)
        if command.adapter and exported.base_on_hub is None:
            say(
                f"warning: the base model {config.policy.base_model} is a folder of this machine; whoever "
                "loads the adapter needs the same one, or take --merged"
            )
        return push(folder, repository, private=command.private)


@contextmanager
def _new_folder(folder: Path, *, force: bool) -> Iterator[Path]:
    """An empty folder to fill within the block; it is then renamed to ``folder``, or removed after an error.

    It is made beside ``folder``, under a name that nothing else has. Nothing of the user's is removed, except for an
    earlier export if ``force`` is set.

    Raises:
        UsageError: At the end of the block there is a ``folder`` that may not be replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    outer = Path(mkdtemp(prefix=".export-", dir=folder.parent))
    inner, replaced = outer / "new", outer / "replaced"
    try:
        inner.mkdir()
        yield inner
        for path in (*inner.rglob("*"), inner):
            fsync(path)
        require_target(str(folder), force=force)
        if os.path.lexists(folder):
            folder.rename(replaced)
        try:
            # A folder can be renamed to the name of another one only if that one is empty.
            inner.rename(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise UsageError(
                f"to: {folder} was created in the meantime; choose another folder"
            ) from None
        fsync(folder.parent)
    finally:
        if replaced.exists() and not os.path.lexists(folder):
            replaced.rename(folder)
        shutil.rmtree(outer, ignore_errors=True)


def _fill(
    folder: Path, command: ExportCommand, run: RunRecord, config: TrainConfig, version: RunVersion
) -> Exported:
    """Write every file of an export into an existing folder."""
    dtype: str | None = None
    if command.merged:
        dtype = save_merged(config.policy, version.folder, folder, command.dtype)
        # Again, since the files of a Hub id may have been downloaded only just now.
        require_same_base(command.run, config.policy)
    else:
        for name in (ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE):
            shutil.copyfile(version.folder / name, folder / name)
        if (base := read_base(command.run)) is not None:
            shown = {"base_model": public_path(base.base_model)}
            write_base(folder, base.model_copy(update=shown))
    load_tokenizer(config.policy.base_model).save_pretrained(folder)
    exported = Exported(
        name=repository_of(command.to) or Path(command.to).name,
        run=run,
        config=config,
        version=version,
        journal=journal_digest(command.run),
        merged_dtype=dtype,
    )
    (folder / CARD_FILE).write_text(model_card(exported), encoding="utf-8")
    return exported
