// Descriptions of matrices for Hopper's tensor memory accelerator.
#include <cudaTypedefs.h>
#include <cuda_runtime.h>

#include "cuda/hopper.h"

namespace nanochat {
namespace cuda {

namespace {

// note: asked of the driver at run time, so that the library loads where there is none.
PFN_cuTensorMapEncodeTiled_v12000 find_encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result) != cudaSuccess || result != cudaDriverEntryPointSuccess) return nullptr;
  return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(found);
}

}  // namespace

CUresult encode_tensor_map(CUtensorMap* map, const void* data, int dimensions, const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box) {
  static const auto encode = find_encoder();
  constexpr cuuint32_t kSteps[] = {1, 1, 1};
  if (!encode) return CUDA_ERROR_NOT_FOUND;
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(dimensions), const_cast<void*>(data), sizes, strides, box, kSteps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

bool make_tensor_map(CUtensorMap* map, const bf16* matrix, int64_t rows, int64_t stride, int box_rows) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(stride), static_cast<cuuint64_t>(rows)}, row_bytes[] = {static_cast<cuuint64_t>(stride) * sizeof(bf16)};
  const cuuint32_t box[] = {kRowUnit, static_cast<cuuint32_t>(box_rows)};
  return encode_tensor_map(map, matrix, 2, sizes, row_bytes, box) == CUDA_SUCCESS;
}

}  // namespace cuda
}  // namespace nanochat
