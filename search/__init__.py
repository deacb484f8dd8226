"""How to look: `archive`, `pareto`, `algorithms`, `loop`, `report`; nothing here imports torch."""
