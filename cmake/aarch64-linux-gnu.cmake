# Cross-compiles for 64-bit Arm Linux with Debian's compiler: apt-get install g++-aarch64-linux-gnu
#
# Its sysroot is its own; headers of other packages (ONNX Runtime's have no machine code) are looked for as natively.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
find_program(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
if(NOT CMAKE_CXX_COMPILER)
  unset(CMAKE_CXX_COMPILER CACHE)  # look again next time
  message(FATAL_ERROR "no C++ compiler for aarch64: apt-get install g++-aarch64-linux-gnu")
endif()
