<?php
printf("PHP %s on %s\n", PHP_VERSION, gethostname());
