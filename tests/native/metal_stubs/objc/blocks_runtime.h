// GNUstep's Foundation asks for this header of its own Objective-C runtime; with GCC's, blocks come from libBlocksRuntime.
#include <Block.h>
