/* The native CPU sampler: Q-Guided Flow (arXiv 2606.11087) for MLP policies, batch 1 and small N.
 *
 * A C ABI of a few functions; `qgf_ros/guidance/backends/native.py` is its binding. Shapes: O observation,
 * D = H * A, E critic members, T denoising steps, N candidates, W width of a hidden layer. All
 * numbers are normalised float32, row-major. A hidden layer is linear, layer norm, GELU (tanh
 * form).
 */
#ifndef QGF_SAMPLER_H
#define QGF_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QGF_ABI 1 /* changes with anything below */

#define QGF_MAX_WIDTH 8192 /* of O, D and W */
#define QGF_MAX_LAYERS 16  /* hidden ones of a network */
#define QGF_MAX_MEMBERS 10
#define QGF_MAX_STEPS 1000
#define QGF_MAX_CANDIDATES 64
#define QGF_MAX_PARAMETERS 200000000 /* of both networks together */

typedef enum { QGF_MIN = 0, QGF_MEAN = 1 } qgf_aggregation;
typedef enum { QGF_FLOAT32 = 0, QGF_FLOAT16 = 1 } qgf_precision; /* of the stored weights alone */

/* What the policy is. */
typedef struct {
  int32_t abi; /* QGF_ABI */
  int32_t obs;
  int32_t action; /* D */
  int32_t steps;
  int32_t velocity_layers;       /* hidden layers; all but the last are normalised */
  const int32_t *velocity_width; /* (velocity_layers,) */
  int32_t critic_layers;         /* hidden layers, all normalised */
  const int32_t *critic_width;
  int32_t members;
  int32_t aggregation;
  float deviations; /* QGF_MEAN: less so many standard deviations of the members, >= 0 */
  int32_t bounded;  /* the critic's output goes through a sigmoid */
  int32_t precision;
  int32_t time_features;
  const char *isa; /* NULL: the best that this processor has; else one that `qgf_isas` names */
} qgf_shape;

/* One layer of all members: weight (E, in, out), bias (E, out), and scale and shift (E, out) of the
 * layer norm behind it, NULL where there is none. The velocity's first layer has the inputs
 * observation, action, time in this order, the critic's observation, action. E = 1 for the
 * velocity. */
typedef struct {
  const float *weight, *bias, *scale, *shift;
} qgf_layer;

/* One question. Everything may be freed once `qgf_sample` has returned. */
typedef struct {
  const float *obs;   /* (O,) */
  const float *noise; /* (N, D) */
  int32_t candidates; /* N, 1 to QGF_MAX_CANDIDATES */
  float weight;       /* w = 1 / beta, finite and >= 0; 0: unguided, and no gradient is taken */
  /* Guards; see training/guards.py for what each does. */
  const uint8_t *guide;    /* (T, D), nonzero: guided; NULL: all */
  const float *low, *high; /* (D,) the support box, infinite for none; NULL: none */
  float disagreement;      /* infinite: off */
  float ratio_cap;         /* infinite: off */
  const float *committed;  /* (held,): the first numbers of the chunk, executed anyway */
  int32_t held;            /* 0 to D */
} qgf_request;

/* Where the answer goes; what is NULL is not asked for, and is not computed either where nothing
 * else needs it. */
typedef struct {
  float *action;          /* (N, D) in [-1, 1], but for committed numbers */
  float *q;               /* (N,) aggregated Q of `action` */
  float *action_unguided; /* (N, D) from the same noise */
  float *q_unguided;      /* (N,) */
  float *q_std;           /* (N,) standard deviation of the members' Q at `action` */
  float *gradient_norm;   /* (N,) mean over the steps of |g|_2, guarded */
  float *guidance_ratio;  /* (N,) w * mean |g| / mean |v| */
  float *acted; /* (N,) which guards took something away: 1 support, 2 disagreement, 4 cap */
} qgf_result;

typedef struct qgf_sampler qgf_sampler;

int32_t qgf_abi(void);

/* Names of the instruction sets of this build that this processor has, best first, comma separated.
 */
const char *qgf_isas(void);

/* Checks and packs the weights; they are copied. NULL on anything that does not fit, with the
 * reason in `error`; nothing is allocated before all sizes have been checked. times: (T,
 * time_features), what the velocity is told at each step. */
qgf_sampler *qgf_create(const qgf_shape *shape, const qgf_layer *velocity, const qgf_layer *critic,
                        const float *times, char *error, size_t error_size);

/* 0, or -1 where the request does not fit; then nothing was written. Allocates nothing, takes no
 * lock; one thread at a time per sampler. The same request gives the same bits, and a candidate's
 * answer does not depend on how many others are asked for with it. */
int32_t qgf_sample(qgf_sampler *sampler, const qgf_request *request, const qgf_result *result);

const char *qgf_isa(const qgf_sampler *sampler);
size_t qgf_weight_bytes(const qgf_sampler *sampler); /* read in a guided sample */

void qgf_destroy(qgf_sampler *sampler); /* NULL is allowed */

#ifdef __cplusplus
}
#endif
#endif
