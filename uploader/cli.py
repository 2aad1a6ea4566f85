"""The command line: its commands together, and what is said when one of them cannot go on.

The commands that post stand in cli_post.py, those that post nothing in cli_look.py, their options in options.py.
What a command needs is imported when it runs: ``uploader --help`` must not wait for Arrow and the rest.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import traceback
from typing import NoReturn

import click

from uploader.commands import cli_look, cli_post
from uploader.commands.ending import end, exit_code_of_signal, last_words, log_the_end
from uploader.commands.options import Voice
from uploader.model.errors import ExitCode, UploaderError
from uploader.sender.descriptors import raise_limit

_ALLOCATIONS_BETWEEN_COLLECTIONS = 50_000
"""Rows make no cycles to be collected; at Python's 700 the search for them took a fiftieth of an upload."""
_SETTING_BY_VARIABLE = {
    # numpy comes with datasketches, and would start a thread a core to wait for sums that nobody asks for.
    "OPENBLAS_NUM_THREADS": "1",
    # Arrow's own allocator keeps what it was given: a sixth of the peak of a Parquet log.
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""For libraries that look at them when they are imported."""
_OUT_OF_MEMORY = b"error: out of memory -- give it more, then run the same command again; what was recorded is safe\n"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="meter-uploader", prog_name="uploader")
def cli() -> None:
    """Upload usage logs to a metering backend: every row posted once, every row accounted for.

    \b
    Examples:
      uploader upload usage.csv --sandbox  try it: nothing leaves this machine
      uploader validate usage.csv          which rows an upload would post
      uploader upload usage.csv            post them; writes usage.results.csv
      uploader replay usage.failed.csv     the failed ones again, corrected

    The key of a backend behind a portal is read from UPLOADER_API_KEY, or from the file that
    UPLOADER_API_KEY_FILE names.
    """


for _command in (
    cli_post.upload,
    cli_post.replay,
    cli_look.export,
    cli_look.validate,
    cli_look.report,
    cli_look.runs,
    cli_look.config,
    cli_look.doctor,
    cli_look.sandbox,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; the exit code says what became of the rows."""
    gc.set_threshold(_ALLOCATIONS_BETWEEN_COLLECTIONS)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)
    raise_limit()
    for name, value in _SETTING_BY_VARIABLE.items():
        os.environ.setdefault(name, value)
    voice = Voice()
    try:
        try:
            cli(prog_name="uploader", obj=voice)
        except SystemExit as exit_:
            end(exit_.code if isinstance(exit_.code, int) else ExitCode.FAULT)
        except UploaderError as error:
            _complain(voice, str(error), exit_code=error.exit_code)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 -- the last one who can say that it is our fault
            text = f"a fault of this program: {error!r} -- please report it; the ledger is safe"
            _complain(voice, text, exit_code=ExitCode.FAULT, trace=traceback.format_exc())
    except MemoryError:  # of which words could be made no more, nor an orderly end; the ledger is made for such ends
        os.write(2, _OUT_OF_MEMORY)
        os._exit(ExitCode.STOPPED)


def _interrupted(number: int, _frame: object) -> NoReturn:
    """End as an interrupted command does; click's own exit code for it, 1, means failed rows here."""
    sys.exit(exit_code_of_signal(number))


def _complain(voice: Voice, text: str, *, exit_code: int, trace: str = "") -> NoReturn:
    if voice.log_format == "json":
        from uploader.commands.log_lines import LogLines  # noqa: PLC0415 -- heavy, see the top

        facts: dict[str, str | int] = {"traceback": trace} if trace else {}
        log_the_end(LogLines("json"), exit_code, text=f"error: {text}", facts=facts)
    else:
        last_words(f"{trace}error: {text}", err=True)
    end(exit_code)
