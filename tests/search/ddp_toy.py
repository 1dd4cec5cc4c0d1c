"""A first-order search of the toy in one or two processes; writes what each process ends with.

python ddp_toy.py FOLDER PROCESSES BATCH_SIZE
"""

import sys
from pathlib import Path

import torch
from search_toy import ToyData, toy_fit

from pnfs.search import FirstOrder

if __name__ == "__main__":
    folder, processes, batch_size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    module, trainer = toy_fit(
        FirstOrder(lr=0.1),
        epochs=2,
        data=ToyData(32, batch_size),
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
    )
    losses = {"training loss": trainer.callback_metrics["train/loss_epoch"].cpu()}
    state = losses | {name: value.cpu() for name, value in module.network.state_dict().items()}
    torch.save(state, folder / f"processes{processes}_rank{trainer.global_rank}.pt")
