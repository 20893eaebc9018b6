/* The library's one exported symbol: a table of functions in plain C. The addon and the library may come from different
 * builds; `abi` says whether they understand each other. Functions return 0, or 1 with the reason in `status`. */
#pragma once
#include <stdint.h>

#define NC_CUDA_ABI 2

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nc_cuda_model nc_cuda_model;
typedef struct nc_cuda_sequence nc_cuda_sequence;

typedef struct {
  char code[32];     /* ERR_* of lib/errors.ts, or ERR_ABORTED */
  char message[480];
} nc_cuda_status;

/* model/config.h, as numbers. */
typedef struct {
  int32_t sequence_len, vocab_size, n_layer, n_head, n_kv_head, n_embd, head_dim, mlp_hidden;
  const int32_t* windows; /* (n_layer) */
  float softcap, rope_base, norm_eps, qk_scale, ve_gate_scale;
  int32_t rope_table_bf16, has_lambdas, has_smear, ve_gate_channels;
} nc_cuda_config;

/* Where weights come from. Called on the thread that loads. */
typedef struct {
  void* user;
  /* 1 when tensor `name` is stored as bfloat16 */
  int32_t (*is_bf16)(void* user, const char* name, int64_t rows, int64_t columns);
  /* rows [from, from + count) of `name`, which has `rows` of them, as float32 */
  int32_t (*read)(void* user, const char* name, int64_t rows, int64_t columns, int64_t from, int64_t count, float* out, nc_cuda_status* status);
  /* bytes of the finished weights; anything but 0 aborts */
  int32_t (*progress)(void* user, int64_t bytes, int64_t total);
} nc_cuda_source;

/* Tokens to append to a sequence; logits: 0 none, 1 of the last, 2 of all. */
typedef struct {
  nc_cuda_sequence* sequence;
  const int32_t* tokens;
  int64_t count;
  int32_t logits;
} nc_cuda_row;

/* How a row draws (MODEL.md 5): temperature 0 is argmax; top_k 0, top_p 1 and min_p 0 keep the whole vocabulary. */
typedef struct {
  double top_p, min_p;
  float temperature;
  int32_t top_k;
  uint32_t seed_low, seed_high;
  int32_t stream;    /* the row's number in its call */
  int32_t max_steps; /* tokens to draw at most */
} nc_cuda_draw;

/* What the device reached at most, in a second. */
typedef struct {
  double read_bytes, float32_flops, bfloat16_flops;
} nc_cuda_limits;

typedef struct {
  uint32_t abi, size;
  int32_t (*count_devices)(int32_t* count, nc_cuda_status* status);
  int32_t (*describe_device)(int32_t device, char name[256], int64_t* bytes, nc_cuda_status* status);
  /* Takes some of the memory and a few hundred milliseconds the first time. */
  int32_t (*free_memory)(int32_t device, int64_t* bytes, nc_cuda_status* status);
  int32_t (*measure)(int32_t device, nc_cuda_limits* limits, nc_cuda_status* status);
  int32_t (*load)(int32_t device, const nc_cuda_config* config, int32_t is_bf16, const nc_cuda_source* source, nc_cuda_model** model, nc_cuda_status* status);
  void (*free_model)(nc_cuda_model* model);
  int64_t (*memory_bytes)(const nc_cuda_model* model);
  int64_t (*cache_bytes)(const nc_cuda_model* model); /* of all sequences, any thread */
  int64_t (*kv_bytes_per_token)(const nc_cuda_model* model);
  /* Sequences outlive their model; any thread that no pass of the sequence runs on. */
  nc_cuda_sequence* (*new_sequence)(nc_cuda_model* model);
  nc_cuda_sequence* (*fork)(const nc_cuda_sequence* sequence);
  void (*truncate)(nc_cuda_sequence* sequence, int64_t length);
  int64_t (*length)(const nc_cuda_sequence* sequence);
  void (*free_sequence)(nc_cuda_sequence* sequence);
  /* Appends the rows' tokens and writes the logits asked for to `out`, (n, V) in row order. After an error no sequence has
   * changed. `cancelled` may become 1 at any time. */
  int32_t (*forward)(nc_cuda_model* model, const nc_cuda_row* rows, int64_t count, float* out, const volatile uint8_t* cancelled, nc_cuda_status* status);
  /* Appends the rows' tokens, draws a token per row, appends it, and so on up to max_steps of the row or a pause id. Writes
   * counts (rows) and ids (rows, most steps), all drawn ones; the last of a row is not appended. */
  int32_t (*decode)(nc_cuda_model* model, const nc_cuda_row* rows, const nc_cuda_draw* draws, int64_t count, const int32_t* pause_ids, int64_t pauses, int32_t* counts,
                    int32_t* ids, const volatile uint8_t* cancelled, nc_cuda_status* status);
} nc_cuda_api;

__attribute__((visibility("default"))) const nc_cuda_api* nc_cuda_get_api(void);

#ifdef __cplusplus
}
#endif
