# Installs the headers and the package files that find_package(moesaic) reads.
# SPDX-License-Identifier: Apache-2.0
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(moesaic_package_dir ${CMAKE_INSTALL_DATADIR}/cmake/moesaic)

install(DIRECTORY include/moesaic DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR}/docs)
install(PROGRAMS cmake/config_from_hf.py cmake/draw_monitor.py DESTINATION ${CMAKE_INSTALL_DATADIR}/moesaic)
install(TARGETS moesaic EXPORT moesaic_targets)
install(EXPORT moesaic_targets NAMESPACE moesaic:: FILE moesaicTargets.cmake DESTINATION ${moesaic_package_dir})

configure_package_config_file(cmake/moesaicConfig.cmake.in ${PROJECT_BINARY_DIR}/moesaicConfig.cmake INSTALL_DESTINATION ${moesaic_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/moesaicConfigVersion.cmake COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/moesaicConfig.cmake ${PROJECT_BINARY_DIR}/moesaicConfigVersion.cmake DESTINATION ${moesaic_package_dir})
