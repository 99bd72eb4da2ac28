"""How fast groups of one chosen and four rejected trajectories are trained on: our trainer against TRL's.

The rejected ones part from the chosen one at different steps, and share some 70 % of its tokens on average.
"""

from beside_trl import PAIRS, compare, group

if __name__ == "__main__":
    compare("reward_training_groups", [pair for number in range(PAIRS // 4) for pair in group(number, [4, 5, 7, 8])])
