# 64-bit ARM from another machine: Debian's cross compiler and qemu's user-mode emulator, on
# which ctest runs what is built. The kernels need no more. For the whole program name a
# folder with the unpacked arm64 packages of deploy/install-deps.sh and what they depend on:
#   cmake --preset aarch64 -DQUIRE_KERNELS_ONLY=OFF -DQUIRE_SYSROOT=FOLDER
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_TRY_COMPILE_PLATFORM_VARIABLES QUIRE_SYSROOT)
if(QUIRE_SYSROOT)
  set(root ${QUIRE_SYSROOT})
  set(CMAKE_SYSROOT ${root})
  set(ENV{PKG_CONFIG_SYSROOT_DIR} ${root})
  set(ENV{PKG_CONFIG_LIBDIR} ${root}/usr/lib/aarch64-linux-gnu/pkgconfig:${root}/usr/share/pkgconfig)
  set(CMAKE_EXE_LINKER_FLAGS_INIT -Wl,-rpath-link,${root}/usr/lib/aarch64-linux-gnu:${root}/lib/aarch64-linux-gnu)
else()
  set(root /usr/aarch64-linux-gnu)
  set(CMAKE_FIND_ROOT_PATH ${root})
endif()
set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L ${root} -cpu max)
set(QUIRE_WEAK_EMULATOR qemu-aarch64 -L ${root} -cpu cortex-a72) # no dot product
