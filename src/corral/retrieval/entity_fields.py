from corral.ranking.fields import EntityFields  # noqa
