"""Model selection: the champion-challenger gate, its contenders, and the champion's live costs."""
