"""Recipes: functions that compose parts into something to train. A paper is a recipe, not a class."""

from sfumato.recipes.ladder import LADDERS, build_ladder
from sfumato.recipes.networks import RECIPES, Recipe
from sfumato.recipes.plan import Options, Run, foresee, fresh_model, fresh_objective, plan, schedule_for
from sfumato.recipes.vae import Condition, build_vae

__all__ = [
    "LADDERS",
    "RECIPES",
    "Condition",
    "Options",
    "Recipe",
    "Run",
    "build_ladder",
    "build_vae",
    "foresee",
    "fresh_model",
    "fresh_objective",
    "plan",
    "schedule_for",
]
