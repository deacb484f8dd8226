"""Greedy block removal: from the dense model on, take away the block whose removal hurts least; the path is the front.

BlockPruner (Zhong et al., 2024, arXiv:2406.10594) removes attention and MLP blocks, SLEB (Song et al., 2024,
arXiv:2402.09025) whole layers. Both try every block that is left anew at each step, with all removed before gone.
"""

from __future__ import annotations

import numpy as np

from search.protocol import FULL, Question
from search.rivals.script import Rival
from search.script import Script, at
from search.tables import Genes
from space.candidate import KINDS, WHOLE


class GreedyRemoval(Rival):
    """Greedy block removal.

    A step asks about each removal at the lowest fidelity, and about the design that it keeps at the full one. Blocks
    are what the space can remove: attention and MLP blocks, layers where a gene stands for a layer, the blocks of all
    layers at once where all have one shape. Where it can remove none there is no path, and the dense model alone is
    asked. Trials may lie above the space's upper bound, as long as something smaller is within it; a kept design
    outside of the space is passed on the way and not asked at the full fidelity.
    """

    def script(self) -> Script:
        """See `Rival`."""
        rng = np.random.default_rng(self.task.seed)
        top = self.space.levels - 1
        blocks = [gene for gene, kind in enumerate(self.space.kinds) if kind not in WHOLE and self._vanishes(gene)]
        kept = top
        while True:
            removals = [
                without for gene in blocks if kept[gene] and self._leads_inside(without := _without(kept, gene), rng)
            ]
            # the design that the last step kept goes with the trials of the next, which do not wait for its answer
            questions = self._full(kept)
            answers = yield [*questions, *at(0, [self.space.decode(genes) for genes in removals])]
            ranked = self.best_first(removals, answers[len(questions) :])
            if not ranked:
                return
            kept = ranked[0][0]
            self.remark = f"{np.count_nonzero(kept != top)} of {len(blocks)} blocks removed"

    def _full(self, genes: Genes) -> list[Question]:
        candidate = self.space.decode(genes)
        return at(FULL, [candidate] if self.space.contains(candidate) else [])

    def _vanishes(self, gene: int) -> bool:
        """Whether the smallest option of a gene takes away all that the gene is about."""
        top = self.space.levels - 1
        pairs = zip(self.space.decode(_without(top, gene)).layers, self.space.decode(top).layers, strict=True)
        return all(
            not small.keeps(kind) or small.option(kind) == dense.option(kind)
            for small, dense in pairs
            for kind in KINDS
        )

    def _leads_inside(self, genes: Genes, rng: np.random.Generator) -> bool:
        """Whether the space holds this design or, by the way that its repair goes, a smaller one."""
        return bool((self.space.repair(genes, rng) <= genes).all())


def _without(genes: Genes, gene: int) -> Genes:
    changed = genes.copy()
    changed[gene] = 0
    return changed
