from corral.ranking.feature_fields import *  # noqa
from corral.ranking.feature_fields import NumericScale, fit_scales  # noqa
