"""Training on two processes: what one of them meets concerns both."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys

import pytest

from tiny_runs import tiny_options, write_tiny_dataset

# Two processes as Fabric would start them. Their losses are replaced by numbers that tell the
# process and the step.
_SCRIPT = """
import os, sys
import lightning_fabric, torch.utils.tensorboard, panoseg.training.run  # once for both
from panoseg.cli import main
from panoseg.models.network import Backbone

child = os.fork()
rank = int(child == 0)
os.environ |= {"LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[1]}
original, calls = Backbone.losses, []

def learn(self, batch, heatmap_only=False):
    losses = original(self, batch)
    calls.append(1)
    value = float("nan") if (rank, len(calls)) == (1, 3) else float(10 * rank + len(calls))
    return {name: loss * 0 + value for name, loss in losses.items()}

Backbone.losses = learn
code = main(sys.argv[2:])
if rank == 0:
    code = 10 * os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) + code
sys.exit(code)
"""


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two processes need two cores")
def test_a_loss_that_diverges_in_one_process_stops_both(tmp_path):
    """The second process diverges at step 3; the log has the means of both until then."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    data = write_tiny_dataset(tmp_path / "data")
    words = [
        "train",
        "pastis-utae",
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
        *tiny_options("pastis-utae"),
    ]
    words += ["--devices", "2", "--epochs", "1", "--batch-size", "1", "--checkpoint-minutes", "0"]
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, port, *words], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 22, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("panoseg train: The loss is nan at step 3.") == 1
    with open(tmp_path / "run" / "log.csv", newline="") as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [6.0, 7.0]
