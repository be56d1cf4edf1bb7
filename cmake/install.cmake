# `cmake --install build/release [--prefix DIR] [--strip]`
include(GNUInstallDirs)
install(TARGETS quire RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY ${CMAKE_SOURCE_DIR}/share/ DESTINATION ${CMAKE_INSTALL_DATADIR}/quire)
# argv[0] picks the dialect of the command line.
foreach(link IN ITEMS xinference xinference-local xinference-supervisor xinference-worker ollama)
  install(CODE "execute_process(COMMAND ${CMAKE_COMMAND} -E create_symlink quire
    \$ENV{DESTDIR}\${CMAKE_INSTALL_PREFIX}/${CMAKE_INSTALL_BINDIR}/${link})")
endforeach()
