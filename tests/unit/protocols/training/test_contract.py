"""The public suite over every training protocol of the registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.linear_model import SGDClassifier

from fedjob import Cyclic, Ditto, FedNova, FedOpt, FedPer, FineTuned, QFedAvg, SklearnPlan
from fedjob.protocols.base import FederatedProtocol
from fedjob.testing.protocol import ProtocolContract, assert_equal
from fedjob.testing.sites import Sites
from tests.unit.protocols.training.sites import TRAINING_PROTOCOLS, ready, unequal_sites


class TestTrainingProtocols(ProtocolContract):
    @pytest.fixture(params=TRAINING_PROTOCOLS)
    def protocol(self, request: pytest.FixtureRequest) -> FederatedProtocol:
        return ready(request.param)

    @pytest.fixture
    def sites(self, tmp_path: Path) -> Sites:
        return unequal_sites(tmp_path)


class Estimator(SklearnPlan):
    """Logistic regression, whose library shows no gradients."""

    def init_estimator(self, model_args):  # type: ignore[no-untyped-def]
        return SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.05)

    def training_data(self, dataset, training_args):  # type: ignore[no-untyped-def]
        return dataset.arrays()


@pytest.mark.parametrize(
    "protocol",
    [Cyclic(), Ditto(lam=0.0), FedNova(), FedOpt(), FedPer(["intercept*"]), FineTuned(epochs=1), QFedAvg()],
    ids=lambda protocol: protocol.name,
)
def test_what_needs_no_gradients_trains_estimators(protocol: FederatedProtocol, tmp_path: Path) -> None:
    sites = replace(
        unequal_sites(tmp_path),
        plan=Estimator,
        model_args={"num_features": 4, "classes": [0, 1]},
        training_args={"num_updates": 5, "batch_size": 8, "lr": 0.05},
    )
    whole = sites.play(protocol, 2)
    assert_equal(whole.value, sites.play(protocol, 2, anew=True).value)
    assert all(float(tensor.abs().sum()) > 0 for name, tensor in whole.value.items() if "coef" in name)
