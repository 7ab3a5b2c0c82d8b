"""What tasks are handed of a plan: small frozen values with all that a computation depends on."""

from __future__ import annotations

from topnine.pipeline.compute.activations import MiningSettings
from topnine.pipeline.compute.perturbations import ClassifierRun
from topnine.pipeline.compute.projections import ProjectionSettings
from topnine.pipeline.compute.traits import HitDescriber
from topnine.pipeline.config.sections import RunConfig
from topnine.pipeline.data.decoding.preparation import Preparation
from topnine.pipeline.network.classifier import Classifier
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.network.receptive_field import ReceptiveField
from topnine.pipeline.plan import Plan
from topnine.pipeline.ranking.distinct import DistinctRule


def mining_settings(plan: Plan, threads: int) -> MiningSettings:
    """Return all that mining images depends on, in workers of some threads."""
    mine = plan.config.mine
    return MiningSettings(
        images=plan.images,
        network=plan.config.network,
        digest=plan.network.digest,
        references=plan.references,
        device=plan.config.cluster.device,
        precision=mine.precision,
        batch=mine.batch,
        queue_bytes=mine.queue_mib * 2**20,
        threads=threads,
        stop_at_damage=plan.config.data.on_damaged == "fail",
    )


def projection_settings(plan: Plan, layer: Layer, threads: int) -> ProjectionSettings:
    """Return all that a layer's projections depend on, in workers of some threads."""
    return ProjectionSettings(
        images=plan.images,
        network=plan.config.network,
        digest=plan.network.digest,
        layer=layer,
        rules=plan.rules,
        precision=plan.config.deconvolve.precision,
        batch=plan.config.deconvolve.batch,
        mined_precision=plan.config.mine.precision,
        device=plan.config.cluster.device,
        threads=threads,
    )


def classifier_run(plan: Plan, classifier: Classifier, layers: dict[str, Layer], threads: int) -> ClassifierRun:
    """Return all that running images through a classifier depends on; ``layers`` are those whose maps are wanted."""
    taps = {name: layer.tap for name, layer in layers.items()}
    return ClassifierRun(
        plan.config.network,
        plan.network.digest,
        classifier,
        taps,
        plan.config.mine.batch,
        plan.config.cluster.device,
        threads,
    )


def hit_describer(config: RunConfig, field: ReceptiveField) -> HitDescriber:
    """Return what describes the hits of a layer with a receptive field, so that distinct ones can be chosen."""
    rule = DistinctRule(config.rank.distinct, config.rank.source, config.rank.distance)
    return HitDescriber(rule, Preparation.of(config.decode, config.data), field)
