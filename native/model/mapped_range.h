// Mapped memory whose file may be cut off behind our back. A read beyond the new end raises SIGBUS, whose default ends the
// process. For guarded ranges a handler puts zeros there instead and notes the damage, as Wayland's compositors do for the
// memory of their clients; every other SIGBUS goes where it went before. The handler is in place while a range is guarded.
#pragma once
#include <cstddef>

namespace nanochat {

struct MappedRange;

MappedRange* guard_range(void* data, size_t size);
void unguard_range(MappedRange* range);  // before it is unmapped
bool is_damaged(const MappedRange* range);

}  // namespace nanochat
